#include "tests/fake_server/server.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

#include "src/os/files.h"

namespace fake {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMemoryBlock = 16 << 20;

void sleep_ms(double ms) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}

[[noreturn]] void hang() {
  for (;;) {
    ::pause();
  }
}

Json error_body(int code, const std::string& message, const char* type) {
  return {{"error", {{"code", code}, {"message", message}, {"type", type}}}};
}

void reply_error(Connection& connection, int code, const std::string& message, const char* type) {
  connection.reply(code, error_body(code, message, type).dump());
}

// The event that closes a generation; servers without native routes send no timings.
Json last_event(const Launch& launch, const Pace& pace, int prompt_tokens, int predicted, bool chat,
                bool at_limit) {
  Json timings = fake::timings(pace, prompt_tokens, predicted);
  if (launch.is("too-fast")) {
    timings["predicted_ms"] = 0.064;
    timings["predicted_per_second"] = 1000000.0;
  }
  if (launch.is("cached")) {
    timings["cache_n"] = prompt_tokens - 1;
    timings["prompt_n"] = 1;
  }
  if (chat) {
    Json event = {
        {"choices", Json::array()},
        {"object", "chat.completion.chunk"},
        {"model", launch.model_id()},
        {"usage",
         {{"completion_tokens", predicted},
          {"prompt_tokens", prompt_tokens},
          {"total_tokens", prompt_tokens + predicted}}},
    };
    if (launch.scenario.native) {
      event["timings"] = timings;
    }
    return event;
  }
  return {{"index", 0},
          {"content", ""},
          {"tokens", Json::array()},
          {"stop", true},
          {"model", launch.model_id()},
          {"tokens_predicted", predicted},
          {"tokens_evaluated", prompt_tokens},
          {"stop_type", at_limit ? "limit" : "eos"},
          {"timings", timings}};
}

}  // namespace

std::shared_ptr<const Launch> Server::now() {
  std::lock_guard lock(mutex_);
  return launch_;
}

void Server::Unmap::operator()(char* pages) const {
  ::munmap(pages, kMemoryBlock);
}

void Server::allocate(int mib) {
  size_t blocks = static_cast<size_t>(std::max(0, mib) + 15) / 16;
  while (memory_.size() > blocks) {
    memory_.pop_back();
  }
  while (memory_.size() < blocks) {
    void* pages = ::mmap(nullptr, kMemoryBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
      break;
    }
    std::memset(pages, 'x', kMemoryBlock);
    memory_.emplace_back(static_cast<char*>(pages));
  }
}

void Server::load(const Launch& launch) {
  const Scenario& scenario = launch.scenario;
  allocate(scenario.allocate_mib);
  sleep_ms(scenario.load_s * 1000 * scenario.time_scale);
  if (launch.is("hang-at-load") || launch.is("503-forever")) {
    hang();
  }
  if (launch.is("exit-during-load")) {
    fmt::print(stderr, "E srv  load_model: failed to load model, '{}'\n", launch.flag("model", ""));
    ::_exit(scenario.exit_code);
  }
  if (launch.is("oom")) {
    fmt::print(
        stderr,
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 99999.00 MB)\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n"
        "E srv  load_model: exiting due to model loading error\n");
    ::_exit(1);
  }
  if (launch.is("killed-for-memory")) {
    ::raise(SIGKILL);
  }
  fmt::print(stderr, "I srv  load_model: model loaded\n");
  std::lock_guard lock(mutex_);
  ready_ = true;
}

void Server::generate(Connection& connection, const Launch& launch, const Json& body, bool chat) {
  int number = generations_++;
  if (launch.is("healthy-but-dead")) {
    hang();
  }
  if (launch.is("crash-mid-probe") && number >= launch.scenario.after_requests) {
    fmt::print(stderr, "GGML_ASSERT failed\n");
    ::raise(SIGABRT);
  }
  std::string message = base::json_get<std::string>(body, "prompt", "");
  if (chat && body.contains("messages") && body["messages"].is_array() && !body["messages"].empty()) {
    message = base::json_get<std::string>(body["messages"].back(), "content", "");
  }
  int limit = base::json_get(body, chat ? "max_tokens" : "n_predict", 128);
  int prompt_tokens = count_tokens(message) + (chat ? 8 : 1);
  if (prompt_tokens >= launch.n_ctx()) {
    Json error =
        error_body(400,
                   fmt::format("request ({} tokens) exceeds the available context size ({} tokens), try "
                               "increasing it",
                               prompt_tokens, launch.n_ctx()),
                   "exceed_context_size_error");
    error["error"]["n_prompt_tokens"] = prompt_tokens;
    error["error"]["n_ctx"] = launch.n_ctx();
    connection.reply(400, error.dump());
    return;
  }
  std::vector<std::string> words = pieces(launch.answers.to(message));
  bool thinks = launch.is("endless-thinking");
  bool full = thinks || base::json_get(body, "ignore_eos", false);
  for (size_t i = 0; full && static_cast<int>(words.size()) < limit; ++i) {
    words.push_back(" and");
  }
  bool at_limit = static_cast<int>(words.size()) >= limit;
  words.resize(std::min(words.size(), static_cast<size_t>(std::max(1, limit))));
  auto predicted = static_cast<int>(words.size());
  Pace pace = fake::pace(launch.scenario, prompt_tokens, number);
  bool streamed = base::json_get(body, "stream", false);
  if (streamed) {
    connection.start_stream();
    if (chat) {
      connection.event(
          R"({"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]})");
    }
  }
  auto next = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double, std::milli>(pace.prompt_ms));
  std::string text;
  for (int i = 0; i < predicted; ++i) {
    std::this_thread::sleep_until(next);
    next +=
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(pace.token_ms));
    text += words[static_cast<size_t>(i)];
    if (!streamed) {
      continue;
    }
    Json event = {{"index", 0}, {"content", words[static_cast<size_t>(i)]}, {"tokens", {i}}, {"stop", false}};
    if (chat) {
      event = {{"choices",
                {{{"finish_reason", nullptr},
                  {"index", 0},
                  {"delta", {{thinks ? "reasoning_content" : "content", words[static_cast<size_t>(i)]}}}}}}};
    }
    if (!connection.event(launch.is("garbage-json") ? "{\"content\": \"tru" : event.dump())) {
      return;
    }
  }
  if (launch.is("cut-off") && streamed) {
    connection.end_stream();
    return;
  }
  Json last = last_event(launch, pace, prompt_tokens, predicted, chat, at_limit);
  const char* reason = at_limit ? "length" : "stop";
  if (!streamed) {
    if (chat) {
      last["choices"] = {
          {{"finish_reason", reason},
           {"index", 0},
           {"message", {{"role", "assistant"}, {thinks ? "reasoning_content" : "content", text}}}}};
      last["object"] = "chat.completion";
    } else {
      last["content"] = text;
    }
    connection.reply(200, launch.is("garbage-json") ? "{\"content\": \"tru" : last.dump());
    return;
  }
  if (chat) {
    connection.event(
        Json({{"choices", {{{"finish_reason", reason}, {"index", 0}, {"delta", Json::object()}}}}}).dump());
  }
  connection.event(last.dump());
  if (chat) {
    connection.event("[DONE]");
  }
  connection.end_stream();
}

// OpenAI's classic form, as much of it as tells a prompt's losses. Without `logprobs` they are of the generated token
// alone, in llama-server's way.
void Server::complete_text(Connection& connection, const Launch& launch, const Json& body) {
  const Scenario& scenario = launch.scenario;
  if (!body.contains("prompt") || !base::json_get(body, "echo", false) || !scenario.logprobs) {
    Json logprobs = {{"content", Json::array({{{"id", 1}, {"token", " and"}, {"logprob", -0.5}}})}};
    Json choice = {{"index", 0}, {"text", " and"}, {"logprobs", logprobs}, {"finish_reason", "length"}};
    connection.reply(200, Json({{"object", "text_completion"}, {"choices", Json::array({choice})}}).dump());
    return;
  }
  std::vector<std::string> tokens;
  if (body["prompt"].is_array()) {
    for (const Json& id : body["prompt"]) {
      tokens.push_back("t" + id.dump());
    }
  } else {
    tokens = pieces(base::json_get<std::string>(body, "prompt", ""));
  }
  size_t n = tokens.size();
  tokens.emplace_back(" and");  // the generated one
  uint64_t seed = std::hash<std::string>()(numerics_key(launch.flags));
  Json values = Json::array(), tops = Json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    uint64_t place = std::hash<std::string>()(tokens[i]) + i;
    double nll = std::max(
        0.01, std::log(scenario.ppl) + 0.5 * gaussian(1, place) + scenario.ppl_noise * gaussian(seed, place));
    values.push_back(i == 0 ? Json(nullptr) : Json(-nll));
    tops.push_back(i == 0 ? Json(nullptr) : Json({{tokens[i], -nll}, {"other", -nll - 0.1}}));
  }
  Json logprobs = {{"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}};
  Json choice = {{"index", 0}, {"text", ""}, {"logprobs", logprobs}, {"finish_reason", "length"}};
  connection.reply(200, Json({{"object", "text_completion"},
                              {"choices", Json::array({choice})},
                              {"usage", {{"prompt_tokens", n}, {"completion_tokens", 1}}}})
                            .dump());
}

// As tbq-server does it: refuse what cannot be, drain, change; on failure the former configuration serves on.
void Server::reconfigure(Connection& connection, const Json& body) {
  std::shared_ptr<const Launch> before = now();
  auto flags = reconfigured(before->flags, body, before->scenario.reconfigure);
  if (!flags) {
    reply_error(connection, 400, flags.failure().to_string(), "invalid_request_error");
    return;
  }
  auto planned = script_.judge(*flags);
  if (!planned || planned->behaviour == "oom" || planned->reconfigure_behaviour == "refuse") {
    reply_error(connection, 400, planned ? "this configuration does not fit" : planned.failure().to_string(),
                "invalid_request_error");
    return;
  }
  {
    std::unique_lock lock(mutex_);
    if (reconfiguring_) {
      lock.unlock();
      reply_error(connection, 503, "Reconfiguring", "unavailable_error");
      return;
    }
    reconfiguring_ = true;
    idle_.wait(lock, [&] { return running_ == 0; });
  }
  sleep_ms(planned->reconfigure_s * 1000 * planned->time_scale);
  const std::string& behaviour = planned->reconfigure_behaviour;
  if (behaviour == "hang" || planned->behaviour == "hang-at-load" || planned->behaviour == "503-forever") {
    hang();
  }
  if (planned->behaviour == "killed-for-memory") {
    ::raise(SIGKILL);
  }
  auto launch = script_.launch(*flags);
  bool fails = behaviour == "fail" || planned->behaviour == "exit-during-load" || !launch;
  {
    std::lock_guard lock(mutex_);
    reconfiguring_ = false;
    if (!fails && behaviour != "die") {
      launch_ = *launch;
      allocate((*launch)->scenario.allocate_mib);
    }
  }
  if (behaviour == "die") {
    fmt::print(stderr, "E srv  reconfigure: neither configuration could be opened\n");
    reply_error(connection, 500, "neither the new nor the former configuration could be opened",
                "server_error");
    ::_exit(1);
  }
  if (fails) {
    reply_error(connection, 409, "it failed half-way; the former configuration serves on",
                "reconfigure_error");
    return;
  }
  fmt::print(stderr, "I srv  reconfigured\n");
  connection.reply(200, Json({{"status", "ok"}, {"tbq", (*launch)->props()["tbq"]}}).dump());
}

void Server::handle(Connection& connection) {
  std::shared_ptr<const Launch> launch = now();
  if (launch->is("hang-at-load")) {
    hang();
  }
  Request request;
  if (!connection.read(request)) {
    return;
  }
  bool generates =
      request.method == "POST" && (request.path == "/completion" || request.path == "/v1/chat/completions");
  bool loading = false, busy = false;
  {
    std::lock_guard lock(mutex_);
    loading = !ready_;
    busy = reconfiguring_;
    launch = launch_;  // the one that this request is counted against
    running_ += generates && !loading && !busy ? 1 : 0;
  }
  if (loading || busy) {
    reply_error(connection, 503, loading ? "Loading model" : "Reconfiguring", "unavailable_error");
    return;
  }
  Json body = Json::object();
  bool well_formed = true;
  if (request.method == "POST") {
    auto parsed = base::parse_json(request.body, "");
    well_formed = parsed && parsed->is_object();
    body = well_formed ? *parsed : body;
  }
  if (well_formed) {
    route(connection, *launch, request, body);
  } else {
    reply_error(connection, 500, "[json.exception.parse_error.101] parse error", "server_error");
  }
  if (generates) {
    std::lock_guard lock(mutex_);
    --running_;
    idle_.notify_all();
  }
}

void Server::route(Connection& connection, const Launch& launch, const Request& request, const Json& body) {
  const std::string route = request.method + " " + request.path;
  bool native = launch.scenario.native;
  if (route == "GET /v1/models") {
    Json model = {{"id", launch.model_id()}, {"object", "model"}, {"owned_by", "fake"}};
    connection.reply(200, Json({{"object", "list"}, {"data", Json::array({model})}}).dump());
  } else if (route == "POST /v1/chat/completions") {
    generate(connection, launch, body, true);
  } else if (route == "POST /v1/completions") {
    complete_text(connection, launch, body);
  } else if (native && route == "GET /health") {
    connection.reply(200, R"({"status":"ok"})");
  } else if (native && route == "GET /props") {
    connection.reply(200, launch.is("garbage-json") ? "{\"default_gen" : launch.props().dump());
  } else if (native && route == "POST /completion") {
    generate(connection, launch, body, false);
  } else if (native && route == "POST /reconfigure" && !launch.scenario.reconfigure.empty()) {
    reconfigure(connection, body);
  } else if (native && route == "POST /tokenize") {
    Json tokens = Json::array();
    for (int i = count_tokens(base::json_get<std::string>(body, "content", "")); i > 0; --i) {
      tokens.push_back(i);
    }
    connection.reply(200, Json({{"tokens", tokens}}).dump());
  } else {
    reply_error(connection, 404, "File Not Found", "not_found_error");
  }
}

int Server::run() {
  std::shared_ptr<const Launch> launch = now();
  if (launch->is("ignore-sigterm")) {
    ::signal(SIGTERM, SIG_IGN);
  }
  if (launch->is("fork-away") && ::fork() == 0) {
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
  } else if (launch->is("fork-away")) {
    return 0;  // as a daemon does; what serves is the grandchild
  }
  int port = std::atoi(launch->flag("port", "8080").c_str());
  if (launch->is("stranger")) {  // never listens: whoever reads the file may do so in its place
    const std::string& path = launch->scenario.port_file;
    std::string unfinished = path + ".new";
    if (std::FILE* file = std::fopen(unfinished.c_str(), "w")) {
      fmt::print(file, "{}\n", port);
      std::fclose(file);
      std::rename(unfinished.c_str(), path.c_str());
    }
    hang();
  }
  auto listener = listen_on(launch->flag("host", "127.0.0.1"), port);
  if (!listener) {
    fmt::print(stderr, "E srv  {}\n", listener.failure().to_string());
    return 1;
  }
  std::thread loader([this, port, launch] {
    load(*launch);
    fmt::print(stderr, "I srv  listening on http://127.0.0.1:{}\n", port);
  });
  serve(*listener, [this](Connection& connection) { handle(connection); });
}

}  // namespace fake
