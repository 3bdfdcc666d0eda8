#pragma once
// A server of a test's own: it streams what a script says, and remembers what it was asked.

#include <doctest/doctest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "probes/endpoint.h"
#include "src/base/json.h"
#include "src/os/http_server.h"

namespace tests {

// Streams what `script` says for each request; remembers the requests.
class Scripted {
 public:
  using Script = std::function<void(const base::Json& body, int request, os::HttpReply& reply)>;
  explicit Scripted(Script script) : script_(std::move(script)) {
    auto bound = os::HttpServer::bind({});
    REQUIRE(bound.ok());
    server_ = std::move(*bound);
    REQUIRE(server_
                ->start([this](const os::HttpIncoming& request, os::HttpReply& reply) {
                  auto body = base::parse_json(request.body, "request");
                  int number = 0;
                  {
                    std::lock_guard lock(mutex_);
                    number = static_cast<int>(bodies.size());
                    bodies.push_back(body.ok() ? *body : base::Json());
                    paths.push_back(request.path);
                  }
                  script_(body.ok() ? *body : base::Json(), number, reply);
                })
                .ok());
    endpoint.base_url = server_->url();
    endpoint.timeout_s = 20;
    endpoint.stall_timeout_s = 20;
  }
  ~Scripted() { server_->stop(); }

  probes::Endpoint endpoint;
  std::vector<base::Json> bodies;
  std::vector<std::string> paths;

 private:
  std::mutex mutex_;
  Script script_;
  std::unique_ptr<os::HttpServer> server_;
};

inline void event(os::HttpReply& reply, const base::Json& data) {
  reply.write("data: " + base::dump_line(data) + "\n\n");
}
inline base::Json delta(const char* field, const std::string& text) {
  return {{"choices",
           base::Json::array({{{"index", 0}, {"delta", {{field, text}}}, {"finish_reason", nullptr}}})}};
}
inline base::Json finish(const char* reason) {
  return {{"choices",
           base::Json::array({{{"index", 0}, {"delta", base::Json::object()}, {"finish_reason", reason}}})}};
}

// Says `word` again and again as `field` until the client hangs up; a word every millisecond.
inline Scripted::Script endless(const char* field, const std::string& first, const std::string& word) {
  return [=](const base::Json&, int, os::HttpReply& reply) {
    reply.begin_stream("text/event-stream");
    event(reply, delta(field, first));
    for (int i = 0; i < 30000 && !reply.client_gone(); ++i) {
      if (!reply.write("data: " + base::dump_line(delta(field, word)) + "\n\n")) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
}

// llama-server's /completion and /tokenize (four characters a token), every token 2 ms after the last.
struct Native {
  int cache_n = 0;
  std::function<void(base::Json&)> change_timings;
  void operator()(const base::Json& body, int, os::HttpReply& reply) const {
    if (body.contains("content")) {
      base::Json tokens = base::Json::array();
      for (size_t i = 0; i < body["content"].get_ref<const std::string&>().size() / 4; ++i) {
        tokens.push_back(1);
      }
      reply.send(200, "application/json", base::dump_line({{"tokens", tokens}}));
      return;
    }
    auto ms = [](auto then) {
      return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - then).count();
    };
    auto start = std::chrono::steady_clock::now();
    int n = body["n_predict"].get<int>();
    auto prompt_n = static_cast<int>(body["prompt"].get_ref<const std::string&>().size() / 4);
    reply.begin_stream("text/event-stream");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    double prompt_ms = ms(start);
    auto first = std::chrono::steady_clock::now();
    for (int i = 0; i < n; ++i) {
      event(reply, {{"content", "a "}, {"stop", false}});
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    double predicted_ms = ms(first);
    base::Json timings = {
        {"cache_n", cache_n},           {"prompt_n", prompt_n},
        {"prompt_ms", prompt_ms},       {"predicted_n", n},
        {"predicted_ms", predicted_ms}, {"predicted_per_second", (n - 1) * 1000 / predicted_ms}};
    if (change_timings) {
      change_timings(timings);
    }
    event(reply, {{"content", ""},
                  {"stop", true},
                  {"stop_type", "limit"},
                  {"tokens_predicted", n},
                  {"tokens_evaluated", prompt_n},
                  {"timings", timings}});
    reply.end_stream();
  }
};

}  // namespace tests
