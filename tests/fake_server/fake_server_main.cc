// A stand-in for llama-server that does what a scenario says. README.md beside it documents flags and
// scenarios.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "src/base/version.h"
#include "src/os/files.h"
#include "tests/fake_server/http.h"
#include "tests/fake_server/model.h"
#include "tests/fake_server/scenario.h"

namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

constexpr const char* kHelp =
    "fake-server: speaks enough of llama-server for tests\n"
    "-m,    --model FNAME\n--host HOST\n--port PORT\n-c,    --ctx-size N\n-b,    --batch-size N\n"
    "-ub,   --ubatch-size N\n-t,    --threads N\n-tb,   --threads-batch N\n-ctk,  --cache-type-k TYPE\n"
    "-ctv,  --cache-type-v TYPE\n-fa,   --flash-attn [on|off|auto]\n-ngl,  --gpu-layers, --n-gpu-layers N\n"
    "-np,   --parallel N\n--numa TYPE\n--mmap, --no-mmap\n--mlock\n--fit [on|off]\n--cache-ram N\n"
    "--cache-prompt, --no-cache-prompt\n--spec-type TYPE\n--spec-ngram-mod-n-min N\n--spec-ngram-mod-n-max "
    "N\n"
    "-a,    --alias NAME\n--scenario FILE\n--behaviour NAME\n";

class Server {
 public:
  Server(fake::Scenario scenario, fake::Flags flags, std::string suite)
      : scenario_(std::move(scenario)), flags_(std::move(flags)), answers_(scenario_, suite) {}

  int run();

 private:
  bool is(const char* behaviour) const { return scenario_.behaviour == behaviour; }
  std::string flag(const char* name, const char* fallback) const {
    auto found = flags_.find(name);
    return found == flags_.end() ? fallback : found->second;
  }
  int n_ctx() const {
    int asked = std::atoi(flag("ctx_size", "0").c_str());
    return scenario_.n_ctx > 0 ? scenario_.n_ctx : asked > 0 ? asked : 4096;
  }
  std::string model_id() const {
    return is("wrong-model")             ? "somebody-elses-model"
           : !scenario_.model_id.empty() ? scenario_.model_id
                                         : flag("alias", flag("model", "fake").c_str());
  }
  void sleep_ms(double ms) const {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
  }
  [[noreturn]] void hang() const {
    for (;;) {
      ::pause();
    }
  }
  void load();
  void handle(fake::Connection& connection);
  void generate(fake::Connection& connection, const Json& body, bool chat);
  Json last_event(const fake::Pace& pace, int prompt_tokens, int predicted, bool chat, bool at_limit) const;
  Json props() const;

  fake::Scenario scenario_;
  fake::Flags flags_;
  fake::Answers answers_;
  std::atomic<bool> ready_{false};
  std::atomic<int> generations_{0};
  std::vector<std::vector<char>> memory_;
};

Json error_body(int code, const std::string& message, const char* type) {
  return {{"error", {{"code", code}, {"message", message}, {"type", type}}}};
}

void Server::load() {
  for (int done = 0; done < scenario_.allocate_mib; done += 16) {
    memory_.emplace_back(16 << 20, 'x');
  }
  sleep_ms(scenario_.load_s * 1000 * scenario_.time_scale);
  if (is("hang-at-load") || is("503-forever")) {
    hang();
  }
  if (is("exit-during-load")) {
    fmt::print(stderr, "E srv  load_model: failed to load model, '{}'\n", flag("model", ""));
    ::_exit(scenario_.exit_code);
  }
  if (is("oom")) {
    fmt::print(
        stderr,
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 99999.00 MB)\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n"
        "E srv  load_model: exiting due to model loading error\n");
    ::_exit(1);
  }
  if (is("killed-for-memory")) {
    ::raise(SIGKILL);
  }
  fmt::print(stderr, "I srv  load_model: model loaded\n");
  ready_ = true;
}

Json Server::props() const {
  Json props = {{"default_generation_settings", {{"params", Json::object()}, {"n_ctx", n_ctx()}}},
                {"total_slots", std::max(1, std::atoi(flag("parallel", "1").c_str()))},
                {"model_alias", model_id()},
                {"model_path", flag("model", "fake")},
                {"chat_template", ""},
                {"build_info", "fake-" + std::string(base::version())}};
  if (scenario_.props.is_object()) {
    props.merge_patch(scenario_.props);
  }
  return props;
}

Json Server::last_event(const fake::Pace& pace, int prompt_tokens, int predicted, bool chat,
                        bool at_limit) const {
  Json timings = fake::timings(pace, prompt_tokens, predicted);
  if (is("too-fast")) {
    timings["predicted_ms"] = 0.064;
    timings["predicted_per_second"] = 1000000.0;
  }
  if (is("cached")) {
    timings["cache_n"] = prompt_tokens - 1;
    timings["prompt_n"] = 1;
  }
  if (chat) {
    return {{"choices", Json::array()},
            {"object", "chat.completion.chunk"},
            {"model", model_id()},
            {"usage",
             {{"completion_tokens", predicted},
              {"prompt_tokens", prompt_tokens},
              {"total_tokens", prompt_tokens + predicted}}},
            {"timings", timings}};
  }
  return {{"index", 0},
          {"content", ""},
          {"tokens", Json::array()},
          {"stop", true},
          {"model", model_id()},
          {"tokens_predicted", predicted},
          {"tokens_evaluated", prompt_tokens},
          {"stop_type", at_limit ? "limit" : "eos"},
          {"timings", timings}};
}

void Server::generate(fake::Connection& connection, const Json& body, bool chat) {
  int number = generations_++;
  if (is("healthy-but-dead")) {
    hang();
  }
  if (is("crash-mid-probe") && number >= scenario_.after_requests) {
    fmt::print(stderr, "GGML_ASSERT failed\n");
    ::raise(SIGABRT);
  }
  std::string message = base::json_get<std::string>(body, "prompt", "");
  if (chat && body.contains("messages") && body["messages"].is_array() && !body["messages"].empty()) {
    message = base::json_get<std::string>(body["messages"].back(), "content", "");
  }
  int limit = base::json_get(body, chat ? "max_tokens" : "n_predict", 128);
  int prompt_tokens = fake::count_tokens(message) + (chat ? 8 : 1);
  if (prompt_tokens >= n_ctx()) {
    Json error =
        error_body(400,
                   fmt::format("request ({} tokens) exceeds the available context size ({} tokens), try "
                               "increasing it",
                               prompt_tokens, n_ctx()),
                   "exceed_context_size_error");
    error["error"]["n_prompt_tokens"] = prompt_tokens;
    error["error"]["n_ctx"] = n_ctx();
    connection.reply(400, error.dump());
    return;
  }
  std::vector<std::string> words = fake::pieces(answers_.to(message));
  bool thinks = is("endless-thinking");
  bool full = thinks || base::json_get(body, "ignore_eos", false);
  for (size_t i = 0; full && static_cast<int>(words.size()) < limit; ++i) {
    words.push_back(" and");
  }
  bool at_limit = static_cast<int>(words.size()) >= limit;
  words.resize(std::min(words.size(), static_cast<size_t>(std::max(1, limit))));
  auto predicted = static_cast<int>(words.size());
  fake::Pace pace = fake::pace(scenario_, prompt_tokens, number);
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
    if (!connection.event(is("garbage-json") ? "{\"content\": \"tru" : event.dump())) {
      return;
    }
  }
  if (is("cut-off") && streamed) {
    connection.end_stream();
    return;
  }
  Json last = last_event(pace, prompt_tokens, predicted, chat, at_limit);
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
    connection.reply(200, is("garbage-json") ? "{\"content\": \"tru" : last.dump());
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

void Server::handle(fake::Connection& connection) {
  if (is("hang-at-load")) {
    hang();
  }
  fake::Request request;
  if (!connection.read(request)) {
    return;
  }
  if (!ready_) {
    connection.reply(503, R"({"error":{"message":"Loading model","type":"unavailable_error","code":503}})");
    return;
  }
  Json body = Json::object();
  if (request.method == "POST") {
    auto parsed = base::parse_json(request.body, "");
    if (!parsed || !parsed->is_object()) {
      connection.reply(
          500, error_body(500, "[json.exception.parse_error.101] parse error", "server_error").dump());
      return;
    }
    body = *parsed;
  }
  const std::string route = request.method + " " + request.path;
  if (route == "GET /health") {
    connection.reply(200, R"({"status":"ok"})");
  } else if (route == "GET /v1/models") {
    Json model = {{"id", model_id()}, {"object", "model"}, {"owned_by", "fake"}};
    connection.reply(200, Json({{"object", "list"}, {"data", Json::array({model})}}).dump());
  } else if (route == "GET /props") {
    connection.reply(200, is("garbage-json") ? "{\"default_gen" : props().dump());
  } else if (route == "POST /tokenize") {
    Json tokens = Json::array();
    for (int i = fake::count_tokens(base::json_get<std::string>(body, "content", "")); i > 0; --i) {
      tokens.push_back(i);
    }
    connection.reply(200, Json({{"tokens", tokens}}).dump());
  } else if (route == "POST /completion" || route == "POST /v1/chat/completions") {
    generate(connection, body, request.path != "/completion");
  } else {
    connection.reply(404, error_body(404, "File Not Found", "not_found_error").dump());
  }
}

int Server::run() {
  if (is("ignore-sigterm")) {
    ::signal(SIGTERM, SIG_IGN);
  }
  if (is("fork-away") && ::fork() == 0) {
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
  } else if (is("fork-away")) {
    return 0;  // as a daemon does; what serves is the grandchild
  }
  int port = std::atoi(flag("port", "8080").c_str());
  auto listener = fake::listen_on(flag("host", "127.0.0.1"), port);
  if (!listener) {
    fmt::print(stderr, "E srv  {}\n", listener.failure().to_string());
    return 1;
  }
  std::thread loader([this, port] {
    load();
    fmt::print(stderr, "I srv  listening on http://127.0.0.1:{}\n", port);
  });
  fake::serve(*listener, [this](fake::Connection& connection) { handle(connection); });
}

}  // namespace

int main(int argc, char** argv) {
  fake::Flags flags = fake::parse_flags({argv + 1, argv + argc});
  if (flags.contains("help") || flags.contains("h") || flags.contains("version")) {
    fmt::print("{}", flags.contains("version") ? "version: 1 (fake)\n" : kHelp);
    return 0;
  }
  auto setting = [&](const char* flag, const char* variable) -> std::string {
    const char* value = std::getenv(variable);
    return flags.contains(flag) ? flags[flag] : value != nullptr ? value : "";
  };
  std::string where = setting("scenario", "FAKE_SERVER_SCENARIO"), text = where.empty() ? "{}" : where;
  if (text[0] != '{') {
    auto file = os::read_file(where);
    if (!file) {
      fmt::print(stderr, "{}\n", file.failure().to_string());
      return 2;
    }
    text = *file;
  }
  auto scenario = fake::parse_scenario(text, where, flags);
  if (!scenario) {
    fmt::print(stderr, "{}\n", scenario.failure().to_string());
    return 2;
  }
  if (std::string behaviour = setting("behaviour", "FAKE_SERVER_BEHAVIOUR"); !behaviour.empty()) {
    scenario->behaviour = behaviour;
  }
  static constexpr std::string_view kBehaviours[] = {"ok",
                                                     "hang-at-load",
                                                     "503-forever",
                                                     "exit-during-load",
                                                     "oom",
                                                     "crash-mid-probe",
                                                     "garbage-json",
                                                     "healthy-but-dead",
                                                     "ignore-sigterm",
                                                     "fork-away",
                                                     "wrong-model",
                                                     "too-fast",
                                                     "endless-thinking",
                                                     "slow",
                                                     "cached",
                                                     "killed-for-memory",
                                                     "cut-off"};
  if (std::find(std::begin(kBehaviours), std::end(kBehaviours), scenario->behaviour) ==
      std::end(kBehaviours)) {
    fmt::print(stderr, "unknown behaviour {}\n", scenario->behaviour);
    return 2;
  }
  for (const auto& [name, value] : flags) {  // other flags, other noise; the port is chance
    for (char c : name == "port" ? std::string() : name + "=" + value) {
      scenario->seed = (scenario->seed ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    }
  }
  if (scenario->behaviour == "slow") {
    scenario->time_scale *= 50;
  }
  std::string suite;
  if (!scenario->suite.empty()) {
    auto file = os::read_file(scenario->suite);
    if (!file) {
      fmt::print(stderr, "{}\n", file.failure().to_string());
      return 2;
    }
    suite = *file;
  }
  return Server(std::move(*scenario), std::move(flags), suite).run();
}
