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
constexpr const char* kScenario = R"({"decode_tps": 200, "prefill_tps": 100000, "rules": [
    {"when": {"threads": "4", "cache_type_k": "q4_0"}, "set": {"decode_tps": 400}}]})";
constexpr const char* kKey = "sk-key-of-the-test-0123456789";
constexpr const char* kKeyBegins = "sk-key";

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
    CHECK_FALSE(has(*line, kKeyBegins));
    CHECK_LT(line->size(), size_t{1} << 20);  // more the driver would not take
    return *base::parse_json(*line, "answer");
  }

 private:
  std::unique_ptr<os::Conversation> talk_;
};

// The driver's name for a fault, "" where there was none.
std::string fault_of(const Json& record) {
  return record["fault"].is_null() ? "" : record["fault"].get<std::string>();
}

std::vector<Json> of_type(const e2e::Driver& driver, const std::string& type) {
  std::vector<Json> found = driver.journal("j.jsonl");
  std::erase_if(found, [&](const Json& record) { return record["type"] != type; });
  return found;
}

}  // namespace

TEST_CASE("the Python example takes its share of a study; killed and resumed, nothing is asked twice") {
  REQUIRE(
      e2e::
          programs_exist());  // test_e2e depends on them, and tools/setup installs python3: nothing is skipped
  REQUIRE_EQ(std::system("python3 -c pass"), 0);
  e2e::Driver driver;
  std::string command = "'exec:python3 \"" + std::string(AR_SOURCE_DIR) + "/tools/plugins/hill_climber.py\"'";
  std::string space = driver.scripted_space(
      kAxes, kScenario,
      goal("strategy: " + command + ", plugin: {time: 10, grace: 10m, share: 0.5, timeout: 30s}"));
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
      CHECK_GT(record["exchange"].get<int>(), exchanges);
      exchanges = record["exchange"].get<int>();
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
        {"search: {strategy: 'exec:x --key sk-1'}", "process list"},
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
  REQUIRE(e2e::programs_exist());
  e2e::Driver driver;
  std::string end, then;
  SUBCASE("not yet gone when it is asked") {
    end = "sleep 0.03";
  }
  SUBCASE("that it has heard is not asked twice, for it may be paid") {
    end = "read b";
    then = "/bin/sh: ended: exit code 0; see ";
  }
  e2e::write(driver.path("once.sh"),
             "read a; echo '{\"proposals\": [], \"error\": \"nothing today\"}'; " + end + "\n");
  std::string space = driver.scripted_space(kAxes, kScenario,
                                            goal("strategy: 'exec:/bin/sh \"" + driver.path("once.sh") +
                                                 "\"', plugin: {time: 10, grace: 10m, timeout: 30s}"));
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  int exchanges = 0;
  for (const Json& record : driver.journal("j.jsonl")) {
    if (record["type"] == "plugin") {
      std::string fault = "the plugin says: nothing today";
      if (exchanges % 2 == 1 && !then.empty()) {  // by the program that was started one exchange before
        fault = then + driver.path("j.logs/plugin-" + std::to_string(exchanges) + ".log");
      }
      CHECK_EQ(record["fault"], fault);
      ++exchanges;
    }
  }
  CHECK_GE(exchanges, 2);
}

TEST_CASE("autoresearch-llm speaks both protocols, and says what went wrong with an answer") {
  REQUIRE(e2e::programs_exist());
  for (bool anthropic : {true, false}) {
    CAPTURE(anthropic);
    e2e::Process home;
    const Json good = {
        {"proposals", {{{"params", {{"n_batch", "2048"}, {"kv", "4"}}}, {"rationale", "larger"}}}}};
    Scripted next = model_says(anthropic, good);
    Endpoint endpoint([&](int, const Json&) { return next; });
    const std::string pasted = endpoint.url() + (anthropic ? "/v1/messages" : "/v1/chat/completions/");
    Proposer proposer(home, anthropic, pasted, {"--budget-tokens", "100000"});
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
    // Where an answer is cut for the journal, the key lies across the cut.
    const std::string long_words = std::string(335, 'x') + kKey, longer = std::string(380, 'x') + kKey;
    Json words = {{"stop_reason", "end_turn"}, {"content", {{{"type", "text"}, {"text", long_words}}}}};
    if (!anthropic) {
      words = {{"choices", {{{"message", {{"refusal", long_words}}}}}}};
    }
    for (const Fault& fault :
         {Fault{{200, words.dump()}, "xxx***"},
          Fault{{404, Json({{"error", {{"message", longer}}}}).dump()}, "xxx***"},
          Fault{model_says(anthropic, good, anthropic ? "refusal" : "content_filter"), "refused"},
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
      // What was not told of an answer is the most that it can have cost; of one that was refused at once nothing.
      const Json& usage = failed["usage"];
      const bool told = has(fault.answer.body, "\"usage\"") && !fault.answer.cut;
      const bool free = fault.answer.status == 404;
      CHECK_EQ(usage["estimated"], !told && !free);
      CHECK_EQ(usage["output_tokens"], free ? 0 : told ? 100 : fault.answer.cut ? 2 * 2048 : 2048);
      CHECK_EQ(usage["input_tokens"].get<double>() > 500, !free);
    }
    Json many = Json::array();
    for (int i = 0; i < 1500; ++i) {
      many.push_back({{"params", good["proposals"][0]["params"]}, {"rationale", long_words + long_words}});
    }
    next = model_says(anthropic, {{"proposals", many}});
    answer = proposer.ask();
    CHECK_EQ(answer["proposals"].size(), 64);  // the driver looks at no more
    CHECK_EQ(answer["usage"]["output_tokens"], 100);
    next = model_says(anthropic, good);
    CHECK(has(proposer.ask(30, 99000)["error"], "the budget of 100000 tokens is used up"));
    CHECK_FALSE(has(e2e::read(home.path("llm.log")), kKeyBegins));
  }
}

TEST_CASE("autoresearch-llm tries again when it may help, in time, and not when it cannot") {
  REQUIRE(e2e::programs_exist());
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
    Json answer = proposer.ask(60);
    CHECK_EQ(answer["proposals"].size(), 1);
    CHECK_EQ(answer["usage"]["output_tokens"], 2048 + 100);  // the 500 may be charged for
    CHECK_EQ(answer["usage"]["estimated"], true);
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
    CHECK(has(Proposer(home, false, endpoint.url()).ask(1)["error"], "ms are left for an answer"));
    CHECK_EQ(endpoint.requests(), 0);
    Proposer proposer(home, false, endpoint.url(), {"--least-s", "0.1"});
    Json answer = proposer.ask(1);
    CHECK(has(answer["error"], "timed out after"));
    CHECK(has(answer["error"], "; the driver waits no longer"));
    CHECK_GT(answer["usage"]["input_tokens"].get<double>(), 100);  // it may be charged for
  }
  SUBCASE("a budget holds where nobody counts, and among the tries of one answer") {
    Json uncounted = *base::parse_json(model_says(true, good).body, "body");
    uncounted.erase("usage");
    bool works = true;
    Endpoint endpoint([&](int, const Json&) { return works ? Scripted{200, uncounted.dump()} : broken; });
    Proposer proposer(home, true, endpoint.url(), {"--budget-tokens", "12000"});
    for (int i = 0; i < 10; ++i) {
      proposer.ask();
    }
    CHECK_GE(endpoint.requests(), 2);
    CHECK_LE(endpoint.requests(), 5);  // each may have written 2048
    works = false;
    const int before = endpoint.requests();
    Json answer = Proposer(home, true, endpoint.url(), {"--budget-tokens", "5000"}).ask();
    CHECK(has(answer["error"], "HTTP 500; not asked again: the budget of 5000 tokens is used up"));
    CHECK_EQ(endpoint.requests(), before + 1);
  }
  SUBCASE("nobody there: nothing was sent, and nothing is charged") {
    Json answer = Proposer(home, true, "http://127.0.0.1:1").ask();
    CHECK(has(answer["error"], "connection refused"));
    CHECK_EQ(answer["usage"]["input_tokens"], 0);
    CHECK_EQ(answer["usage"]["estimated"], false);
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

TEST_CASE("a study whose endpoint repeats itself; the key is nowhere") {
  REQUIRE(e2e::programs_exist());
  e2e::Driver driver;
  driver.set_env(std::string("TEST_KEY=") + kKey);
  const Json same = {{"proposals",
                      {{{"params", {{"cache_type_k", "q4_0"}, {"n_threads", 4}}},
                        {"rationale", std::string("my key is ") + kKey}}}}};
  Endpoint endpoint([&](int, const Json&) { return model_says(true, same); });
  std::string llm =
      "strategy: llm, plugin: {time: 10, grace: 10m, share: 0.5}, llm: {provider: anthropic, model: m, url: "
      "'" +
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
      refused += has(fault_of(record), "has been run before") ? 1 : 0;
      CHECK_EQ(record["llm"]["model"], "m");
      CHECK_EQ(record["usage"]["input_tokens"], 900);
    } else if (record["type"] == "trial_end" && record["phase"] == "plugin") {
      CHECK_EQ(record["proposer"], "llm");
      CHECK_EQ(record["rationale"], "my key is ***");
    }
  }
  CHECK_EQ(taken, 1);
  CHECK_GE(refused, 1);
  CHECK_FALSE(has(all_files(driver.directory()), kKeyBegins));
  CHECK(driver.all_gone(5));
}

TEST_CASE(
    "a study whose endpoint dreams, breaks off, refuses, is late or dead runs the trials that it would "
    "without") {
  REQUIRE(e2e::programs_exist());
  e2e::Driver driver;
  auto trials = [&](const std::string& search) {
    std::filesystem::remove(driver.path("j.jsonl"));
    std::string space = driver.scripted_space(
        kAxes, kScenario,
        "objective: {maximize: [decode_tps]}\nsearch: {" + search + ", max_trials: 9, anchor_every: 0}\n");
    e2e::Result result =
        driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
    CAPTURE(result.err);
    CHECK((result.code == 10 || result.code == 4));  // 4: on so busy a machine that no rates are plausible
    std::vector<std::string> all;
    for (const Json& end : driver.ends("j.jsonl")) {
      all.push_back(end["params"].dump() + end["phase"].get<std::string>());
    }
    return all;
  };
  const std::vector<std::string> alone = trials("strategy: grid");
  REQUIRE_EQ(alone.size(), 9);
  auto with = [&](const std::string& url) {
    return trials(
        "strategy: llm, plugin: {time: 10, grace: 10m, share: 1, fallback: grid}, "
        "llm: {provider: openai, model: m, timeout: 3s, url: '" +
        url + "'}");
  };
  Scripted cut = model_says(false, {{"proposals", Json::array()}}), late = cut;
  cut.cut = true;
  late.delay_s = 5;
  const Scripted dream = model_says(
      false, {{"proposals", {{{"params", {{"n_threads", 4}, {"cache_type_k", "q4_0"}, {"turbo", 9}}}}}}});
  const std::vector<Scripted> script = {dream, cut, cut, model_says(false, Json::object(), "content_filter"),
                                        late};
  {
    Endpoint endpoint([&](int n, const Json&) { return script[std::min(n, 4)]; });
    CHECK_EQ(with(endpoint.url()), alone);
    const std::vector<Json> exchanges = of_type(driver, "plugin");
    const char* says[] = {"the space has no such axis", "closed before the answer was complete",
                          "the plugin says: refused", "timed out after"};
    REQUIRE_EQ(exchanges.size(), std::size(says));
    REQUIRE_EQ(of_type(driver, "plugin_start").size(), std::size(says));
    for (size_t i = 0; i < std::size(says); ++i) {
      CHECK(has(fault_of(exchanges[i]), says[i]));
      // What was set aside before it was asked is no less than what one answer came to.
      const Json start = of_type(driver, "plugin_start")[i]["usage"], end = exchanges[i]["usage"];
      CHECK_EQ(end["estimated"], i % 2 == 1);
      CHECK_GE(start["input_tokens"].get<double>() * (i == 1 ? 2 : 1), end["input_tokens"].get<double>());
    }
    CHECK_EQ(exchanges[1]["usage"]["output_tokens"], 2 * 2048);
  }
  CHECK_EQ(with("http://127.0.0.1:1"), alone);
  for (const Json& exchange : of_type(driver, "plugin")) {
    CHECK(has(fault_of(exchange), "connection refused"));
    CHECK_EQ(exchange["usage"]["output_tokens"], 0);
  }
  CHECK_EQ(of_type(driver, "plugin").size(), 4);
  CHECK(driver.all_gone(5));
}

TEST_CASE("url: server asks the server under tuning between trials, where one runs then") {
  REQUIRE(e2e::programs_exist());
  e2e::Driver driver;
  e2e::Process home;
  std::string offers = R"(, "reconfigure": ["cache_type_k", "n_threads"])", backend;
  std::string says = "the plugin says: malformed";  // it serves, but is no model that can propose
  SUBCASE("one that is changed in place") {}
  SUBCASE("a fresh process for each trial: none runs") {
    offers = "";
    says = "no server is running between the trials";
  }
  SUBCASE("one that somebody else started") {
    const int port = *os::free_port();
    backend = "backend: {kind: url, url: 'http://127.0.0.1:" + std::to_string(port) + "'}\n";
    driver.scripted_space(kAxes, R"({"decode_tps": 100)" + offers + "}");
    REQUIRE(home.spawn({e2e::program("fake-server"), "--scenario", driver.path("scenario.json"), "-m",
                        driver.path("model.bin"), "--port", std::to_string(port)}));
    for (int i = 0; i < 1500 && !os::listening_owner(port, home.pid()); ++i) {
      e2e::nap_ms(20);
    }
  }
  std::string space = driver.scripted_space(kAxes, R"({"decode_tps": 100)" + offers + "}",
                                            "objective: {maximize: [decode_tps]}\nsearch: {strategy: llm, "
                                            "plugin: {time: 10, grace: 10m, share: 1}, "
                                            "llm: {provider: openai, url: server}, max_trials: 2}\n");
  if (!backend.empty()) {
    std::string text = e2e::read(space);
    const size_t begin = text.find("backend:\n"), end = text.find("axes:\n");
    e2e::write(space, text.replace(begin, end - begin, backend));
  }
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.err);
  CHECK((result.code == 10 || result.code == 4));  // as above
  const std::vector<Json> exchanges = of_type(driver, "plugin");
  REQUIRE_EQ(exchanges.size(), 1);
  CAPTURE(exchanges[0].dump());
  CHECK(has(fault_of(exchanges[0]), says));
  CHECK_EQ(exchanges[0]["llm"]["endpoint"], "server");
  CHECK_EQ(exchanges[0]["usage"]["input_tokens"].get<double>() > 100, !offers.empty());
  CHECK_EQ(exchanges[0]["usage"]["estimated"], false);  // the server has counted
}
