// Plugins as a user has them: the Python example in a whole study, and autoresearch-llm against an endpoint that speaks
// both protocols and misbehaves.

#include <cmath>

#include "src/os/conversation.h"
#include "src/os/http_server.h"
#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr const char* kAxes =
    "  cache_type_k: {values: [f16, q8_0, q4_0], default: f16}\n"
    "  n_threads: {values: [1, 2, 3, 4], default: 1}\n";
constexpr const char* kScenario = R"({"decode_tps": 2000, "prefill_tps": 100000, "rules": [
    {"when": {"threads": "4", "cache_type_k": "q4_0"}, "set": {"decode_tps": 4000}}]})";
constexpr const char* kKey = "sk-key-of-the-test-0123456789";

std::string goal(const std::string& search) {
  return "objective: {maximize: [decode_tps]}\nsearch: {" + search + ", max_trials: 7, anchor_every: 0}\n";
}

std::string all_files(const std::string& directory) {
  std::string text;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    text += entry.is_regular_file() ? e2e::read(entry.path().string()) : "";
  }
  return text;
}

// What the endpoint answers to request number n (from 0).
struct Scripted {
  int status = 200;
  std::string body, type = "application/json";
  os::HttpHeaders headers = {};
  double delay_s = 0;
  bool cut = false;
};

class Endpoint {
 public:
  using Script = std::function<Scripted(int n, const Json& request)>;
  explicit Endpoint(Script script) : script_(std::move(script)) {
    os::HttpServerOptions options;
    auto bound = os::HttpServer::bind(options);
    REQUIRE(bound.ok());
    server_ = std::move(*bound);
    REQUIRE(server_->start([this](const os::HttpIncoming& in, os::HttpReply& out) { serve(in, out); }).ok());
  }
  std::string url() const { return server_->url(); }
  int requests() const { return n_; }
  bool keys_seen() const { return keys_; }
  Json last() const { return last_; }

 private:
  void serve(const os::HttpIncoming& in, os::HttpReply& out) {
    const std::string* anthropic = in.header("x-api-key");
    const std::string* openai = in.header("authorization");
    keys_ =
        (anthropic != nullptr && *anthropic == kKey && in.path == "/v1/messages") ||
        (openai != nullptr && *openai == std::string("Bearer ") + kKey && in.path == "/v1/chat/completions");
    auto request = base::parse_json(in.body, "request");
    last_ = request ? *request : Json();
    Scripted answer = script_(n_++, last_);
    e2e::nap_ms(static_cast<int>(answer.delay_s * 1000));
    if (answer.cut) {
      out.begin_stream(answer.type);
      out.write(answer.body.substr(0, answer.body.size() / 2));
      return;  // without an end
    }
    out.send(answer.status, answer.type, answer.body, answer.headers);
  }

  Script script_;
  std::atomic<int> n_{0};
  std::atomic<bool> keys_{false};
  Json last_;
  std::unique_ptr<os::HttpServer> server_;
};

// The same answer in either protocol.
Scripted model_says(bool anthropic, const Json& answer, const std::string& stop = "") {
  Json body;
  if (anthropic) {
    body = {{"stop_reason", stop.empty() ? "tool_use" : stop},
            {"content",
             {{{"type", "text"}, {"text", "Well."}},
              {{"type", "tool_use"}, {"name", "propose"}, {"input", answer}}}},
            {"usage", {{"input_tokens", 900}, {"output_tokens", 100}}}};
  } else {
    body = {{"choices",
             {{{"finish_reason", stop.empty() ? "stop" : stop},
               {"message", {{"role", "assistant"}, {"content", "```json\n" + answer.dump() + "\n```"}}}}}},
            {"usage", {{"prompt_tokens", 900}, {"completion_tokens", 100}}}};
  }
  return {200, body.dump()};
}

class Proposer {
 public:
  Proposer(e2e::Process& home, bool anthropic, const std::string& url, std::vector<std::string> more = {}) {
    os::LaunchSpec spec;
    spec.argv = {e2e::program("autoresearch-llm"),
                 "--provider",
                 anthropic ? "anthropic" : "openai",
                 "--url",
                 url,
                 "--model",
                 "m",
                 "--key-env",
                 "TEST_KEY",
                 "--usd-per-mtok-in",
                 "10",
                 "--usd-per-mtok-out",
                 "100"};
    spec.argv.insert(spec.argv.end(), more.begin(), more.end());
    spec.env = {{"TEST_KEY", kKey}};
    spec.log_path = home.path("llm.log");
    spec.guard_program = e2e::program("autoresearch");
    auto talk = os::Conversation::start(std::move(spec));
    REQUIRE(talk.ok());
    talk_ = std::move(*talk);
  }
  Json ask(double within_s = 30, double tokens_so_far = 0) {
    Json axes = {{{"name", "n_batch"}, {"values", {512, 2048}}, {"default", 512}, {"ordered", true}},
                 {{"name", "kv"}, {"values", {"f16", 4, true}}, {"default", "f16"}, {"ordered", false}}};
    Json trial = {{"trial_id", 1},
                  {"params", {{"n_batch", 512}, {"kv", "f16"}}},
                  {"status", "ok"},
                  {"feasible", true},
                  {"objective", {12.3456789}},
                  {"violations", Json::array()},
                  {"metrics", {{"decode_tps", 12.3456789}}}};
    Json request = {{"schema_version", 1},
                    {"n", 2},
                    {"answer_within_s", within_s},
                    {"default", trial},
                    {"best", {trial}},
                    {"last", {trial}},
                    {"space", {{"axes", axes}, {"constraints", Json::array()}}},
                    {"usage_so_far", {{"input_tokens", tokens_so_far}, {"output_tokens", 0}}}};
    auto line = talk_->ask(request.dump(), within_s + 30, 1 << 22);
    REQUIRE(line.ok());
    CHECK_FALSE(has(*line, kKey));
    return *base::parse_json(*line, "answer");
  }

 private:
  std::unique_ptr<os::Conversation> talk_;
};

bool llm_exists() {
  bool built = e2e::programs_exist() && std::filesystem::exists(e2e::program("autoresearch-llm"));
  if (!built) {
    MESSAGE("autoresearch-llm is not built: skipped");
  }
  return built;
}

}  // namespace

TEST_CASE("the Python example takes its share of a study; killed and resumed, nothing is asked twice") {
  if (!e2e::programs_exist() || std::system("python3 -c pass 2>/dev/null") != 0) {
    MESSAGE("no python3, or nothing built: skipped");
    return;
  }
  e2e::Driver driver;
  std::string command = "'exec:python3 \"" + std::string(AR_SOURCE_DIR) + "/tools/plugins/hill_climber.py\"'";
  std::string space = driver.scripted_space(
      kAxes, kScenario, goal("strategy: " + command + ", plugin: {time: 10, share: 0.5, timeout: 30s}"));
  driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  for (int i = 0; i < 3000 && !has(e2e::read(driver.path("j.jsonl")), "\"phase\":\"plugin\""); ++i) {
    e2e::nap_ms(20);
  }
  driver.signal(SIGKILL);
  driver.wait();
  CHECK(driver.all_gone(5));  // the plugin and its guard too
  auto before = driver.journal("j.jsonl");
  e2e::Result result = driver.run({"resume", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK_FALSE(has(result.out, "not what this version"));
  int proposed = 0, exchanges = 0;
  for (const Json& record : driver.journal("j.jsonl")) {
    if (record["type"] == "plugin") {
      CHECK_EQ(record["exchange"], ++exchanges);
      const std::string fault = record["fault"].is_null() ? "" : record["fault"];
      CHECK((fault.empty() || has(fault, "no untried step is left")));
    } else if (record["type"] == "trial_end" && record["phase"] == "plugin") {
      ++proposed;
      CHECK(has(record["rationale"], "from the best so far"));
      CHECK_EQ(record["proposer"], "exec");
    }
  }
  CHECK_GE(proposed, 2);
  CHECK_LE(proposed, 3);
  CHECK(driver.all_gone(5));
  // A flag that carries a secret, a quote that is not closed, options without a plugin: told with their places.
  std::string text = e2e::read(space);
  for (const auto& [line, says] :
       {std::pair<const char*, const char*>{"search: {strategy: 'exec:x --api-key abc'}", "process list"},
        {"search: {strategy: \"exec:x 'y\"}", "not closed"},
        {"search: {strategy: llm}", "names no provider"},
        {"search: {plugin: {share: 0.5}}", "a strategy that is a plugin"}}) {
    REQUIRE(e2e::replace_line(text, "search:", line));
    e2e::write(driver.path("bad.yaml"), text);
    e2e::Result bad = driver.run({"plan", "--space", driver.path("bad.yaml")});
    CHECK_EQ(bad.code, 2);
    CHECK(has(bad.err, says));
  }
}

TEST_CASE("a plugin that answers once and ends is started anew for a question it has not heard") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string end, then = "the plugin says: nothing today";
  SUBCASE("not yet gone when it is asked") {
    end = "sleep 0.03";
  }
  SUBCASE("that it has heard is not asked twice, for it may be paid") {
    end = "read b";
    then = "/bin/sh: ended: exit code 0; see its log";
  }
  e2e::write(driver.path("once.sh"),
             "read a; echo '{\"proposals\": [], \"error\": \"nothing today\"}'; " + end + "\n");
  std::string space = driver.scripted_space(
      kAxes, kScenario,
      goal("strategy: 'exec:/bin/sh \"" + driver.path("once.sh") + "\"', plugin: {time: 10, timeout: 30s}"));
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  int exchanges = 0;
  for (const Json& record : driver.journal("j.jsonl")) {
    if (record["type"] == "plugin") {
      CHECK_EQ(record["fault"], exchanges++ % 2 == 0 ? "the plugin says: nothing today" : then);
    }
  }
  CHECK_GE(exchanges, 2);
}

TEST_CASE("autoresearch-llm speaks both protocols, and says what went wrong with an answer") {
  if (!llm_exists()) {
    return;
  }
  for (bool anthropic : {true, false}) {
    CAPTURE(anthropic);
    e2e::Process home;
    const Json good = {
        {"proposals", {{{"params", {{"n_batch", "2048"}, {"kv", "4"}}}, {"rationale", "larger"}}}}};
    Scripted next = model_says(anthropic, good);
    Endpoint endpoint([&](int, const Json&) { return next; });
    Proposer proposer(home, anthropic, endpoint.url(), {"--budget-tokens", "100000"});
    Json answer = proposer.ask();
    CHECK(endpoint.keys_seen());
    CHECK_FALSE(answer.contains("error"));
    REQUIRE_EQ(answer["proposals"].size(), 1);
    CHECK_EQ(answer["proposals"][0]["params"], Json({{"n_batch", 2048}, {"kv", 4}}));  // texts became numbers
    CHECK_EQ(answer["usage"]["input_tokens"], 900);
    CHECK_LT(std::fabs(answer["usage"]["cost_usd"].get<double>() - 0.019), 1e-9);
    const Json sent = endpoint.last();
    const Json& schema =
        anthropic ? sent["tools"][0]["input_schema"] : sent["response_format"]["json_schema"]["schema"];
    const Json& params = schema["properties"]["proposals"]["items"]["properties"]["params"];
    CHECK_EQ(params["properties"]["n_batch"], Json({{"type", "integer"}, {"enum", {512, 2048}}}));
    CHECK_EQ(params["properties"]["kv"]["type"], Json({"string", "integer", "boolean"}));
    CHECK_EQ(params["additionalProperties"], false);
    std::string user = anthropic ? sent["messages"][0]["content"] : sent["messages"][1]["content"];
    CHECK(has(user, "12.35"));
    CHECK_EQ(has(sent.dump(), "Answer with one JSON object"), !anthropic);  // where no tool must be called

    struct Fault {
      Scripted answer;
      const char* says;
    };
    Scripted cut = model_says(anthropic, good);
    cut.cut = true;
    Scripted odd = next;
    odd.body = "<html>hello</html>";
    odd.type = "text/html";
    Scripted huge = next;
    huge.body = std::string(5 << 20, 'x');
    for (const Fault& fault :
         {Fault{model_says(anthropic, good, anthropic ? "refusal" : "content_filter"), "refused"},
          Fault{model_says(anthropic, good, anthropic ? "max_tokens" : "length"),
                "cut off: the answer did not end"},
          Fault{model_says(anthropic, {{"nothing", 1}}), "malformed"},
          Fault{{200, "{\"choices\": [{\"mes"}, "malformed"},
          Fault{cut, "closed before the answer was complete"}, Fault{odd, "text/html"},
          Fault{huge, "answer larger than"},
          Fault{{404, R"({"error": {"message": "no model m for key )" + std::string(kKey) + "\"}}"},
                "no model m for key ***"}}) {
      CAPTURE(fault.says);
      next = fault.answer;
      Json failed = proposer.ask();
      CHECK(has(failed["error"], fault.says));
      CHECK(failed["proposals"].empty());
    }
    next = model_says(anthropic, good);
    CHECK(has(proposer.ask(30, 99000)["error"], "the budget of 100000 tokens is used up"));
    CHECK_FALSE(has(e2e::read(home.path("llm.log")), kKey));
  }
}

TEST_CASE("autoresearch-llm tries again when it may help, in time, and not when it cannot") {
  if (!llm_exists()) {
    return;
  }
  e2e::Process home;
  const Json good = {{"proposals", {{{"params", {{"n_batch", 2048}, {"kv", "f16"}}}, {"rationale", "x"}}}}};
  Scripted busy{429, R"({"error": {"message": "slow down"}})"};
  busy.headers = {{"Retry-After", "1"}};
  Scripted broken{500, "oops"}, barred{401, R"({"error": {"message": "bad key"}})"};
  SUBCASE("429 with Retry-After, 500, then an answer") {
    Endpoint endpoint([&](int n, const Json&) {
      return n == 0 ? busy : n == 1 ? broken : model_says(true, good);
    });
    Proposer proposer(home, true, endpoint.url());
    auto start = std::chrono::steady_clock::now();
    CHECK_EQ(proposer.ask(60)["proposals"].size(), 1);
    CHECK_EQ(endpoint.requests(), 3);
    CHECK_GE(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 1.4);
  }
  SUBCASE("a Retry-After beyond the time is not waited for, nor is anybody asked before it") {
    busy.headers = {{"Retry-After", "3600"}};
    Endpoint endpoint([&](int, const Json&) { return busy; });
    Proposer proposer(home, true, endpoint.url());
    CHECK(has(proposer.ask(20)["error"], "HTTP 429: slow down; it asks to wait 3600 s"));
    CHECK(has(proposer.ask(20)["error"], "asked to be left alone"));
    CHECK_EQ(endpoint.requests(), 1);
  }
  SUBCASE("a key that is refused is not tried again") {
    Endpoint endpoint([&](int, const Json&) { return barred; });
    Proposer proposer(home, true, endpoint.url());
    CHECK(has(proposer.ask()["error"], "HTTP 401: bad key"));
    CHECK(has(proposer.ask()["error"], "HTTP 401: bad key"));
    CHECK_EQ(endpoint.requests(), 1);
  }
  SUBCASE("a slow endpoint: an answer in time all the same") {
    Scripted slow = model_says(false, good);
    slow.delay_s = 3;
    Endpoint endpoint([&](int, const Json&) { return slow; });
    Proposer proposer(home, false, endpoint.url());
    Json answer = proposer.ask(1);
    CHECK(has(answer["error"], "timed out after"));
    CHECK_GT(answer["usage"]["input_tokens"].get<double>(), 100);  // it may be charged for
  }
  SUBCASE("a server without response_format is asked without it") {
    Endpoint endpoint([&](int, const Json& request) {
      return request.contains("response_format") ? Scripted{400, R"({"error": {"message": "no grammars"}})"}
                                                 : model_says(false, good);
    });
    Proposer proposer(home, false, endpoint.url());
    CHECK_EQ(proposer.ask()["proposals"].size(), 1);
    CHECK_EQ(proposer.ask()["proposals"].size(), 1);
    CHECK_EQ(endpoint.requests(), 3);
  }
}

TEST_CASE("a study whose endpoint repeats itself, or is the server under tuning; the key is nowhere") {
  if (!llm_exists()) {
    return;
  }
  e2e::Driver driver;
  driver.set_env(std::string("TEST_KEY=") + kKey);
  const Json same = {{"proposals",
                      {{{"params", {{"cache_type_k", "q4_0"}, {"n_threads", 4}}},
                        {"rationale", std::string("my key is ") + kKey}}}}};
  Endpoint endpoint([&](int, const Json&) { return model_says(true, same); });
  std::string llm =
      "strategy: llm, plugin: {time: 10, share: 0.5}, llm: {provider: anthropic, model: m, url: '" +
      endpoint.url() + "', api_key_env: TEST_KEY, budget_tokens: 100000}";
  std::string space = driver.scripted_space(kAxes, kScenario, goal(llm));
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK(has(result.out, "llm proposed 1 of the trials in "));
  int taken = 0, refused = 0;
  for (const Json& record : driver.journal("j.jsonl")) {
    if (record["type"] == "plugin") {
      taken += static_cast<int>(record["taken"].size());
      refused +=
          has(record["fault"].is_null() ? "" : record["fault"].get<std::string>(), "has been run before") ? 1
                                                                                                          : 0;
      CHECK_EQ(record["usage"]["input_tokens"], 900);
    } else if (record["type"] == "trial_end" && record["phase"] == "plugin") {
      CHECK_EQ(record["proposer"], "llm");
      CHECK_EQ(record["rationale"], "my key is ***");
    }
  }
  CHECK_EQ(taken, 1);
  CHECK_GE(refused, 1);
  CHECK_FALSE(has(all_files(driver.directory()), kKey));
  CHECK(driver.all_gone(5));
}
