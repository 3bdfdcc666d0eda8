// The probes against tests/fake_server, kept by the guard as a study would.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "probes/needle.h"
#include "probes/quality.h"
#include "probes/speed.h"
#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "tests/fake_server/scenario.h"
#include "tests/os/scratch.h"

using namespace probes;

namespace {

constexpr const char* kSuite = R"({"name":"t","items":[
  {"id":"atom","prompt":"What happens when you split an atom?","any_of":["fission","fusion"]},
  {"id":"fib","prompt":"Write a Fibonacci function.","all_of":["memo","cache"]},
  {"id":"war","prompt":"What started the war?","any_of":["assassination"]},
  {"id":"sum","prompt":"What is 7 + 5?","any_of":["12"]}]})";

class FakeServer {
 public:
  explicit FakeServer(const std::string& scenario, std::vector<std::string> flags = {}, bool wait = true) {
    int port = *os::free_port();
    std::ofstream(scratch_ / "suite.json") << kSuite;
    os::LaunchSpec spec;
    spec.argv = {AR_BIN_DIR "/fake-server", "-m", "fake.gguf", "--port", std::to_string(port)};
    spec.argv.insert(spec.argv.end(), flags.begin(), flags.end());
    std::string text = scenario;
    if (size_t at = text.find("SUITE"); at != std::string::npos) {
      text.replace(at, 5, scratch_ / "suite.json");
    }
    spec.env = {{"FAKE_SERVER_SCENARIO", text}};
    spec.log_path = scratch_ / "log";
    spec.guard_program = AR_TEST_HELPER;
    auto child = os::GuardedChild::launch(spec);
    REQUIRE_MESSAGE(child.ok(), child.failure().to_string());
    child_ = std::move(*child);
    endpoint.base_url = "http://127.0.0.1:" + std::to_string(port);
    endpoint.timeout_s = 10;
    for (int i = 0; wait && i < 1000 && status("/health") != 200 && !child_->poll(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  int status(const char* path) {
    os::HttpRequest request;
    request.url = endpoint.base_url + path;
    request.timeout_s = 0.5;
    auto response = os::http(request);
    return response ? response->status : 0;
  }
  os::GuardedChild& child() { return *child_; }
  std::string log() const { return os::read_tail(scratch_ / "log", 4096); }

  Endpoint endpoint;

 private:
  Scratch scratch_;
  std::unique_ptr<os::GuardedChild> child_;
};

SpeedOptions quick() {
  SpeedOptions options;
  options.n_prompt = 300;
  options.n_gen = 32;
  options.repeats = 3;
  return options;
}

}  // namespace

TEST_CASE("all probes pass on a server that behaves") {
  FakeServer server(R"({"suite":"SUITE","decode_tps":500,"prefill_tps":20000})");
  CHECK(os::listening_owner(std::atoi(server.endpoint.base_url.c_str() + 17), server.child().pid()) ==
        server.child().pid());
  auto speed = run_speed(server.endpoint, quick());
  REQUIRE_MESSAGE(speed.ok(), speed.failure().to_string());
  CHECK(speed->implausible == "");
  CHECK(speed->decode_tps > 250);  // 500 on an idle machine
  CHECK(speed->decode_tps < 750);
  CHECK(speed->samples.size() == 3);
  CHECK(speed->samples[0].predicted_n == 32);
  CHECK(speed->samples[0].prompt_n > 270);
  CHECK(speed->samples[0].prompt_n <= 305);
  auto quality = run_quality(server.endpoint, *parse_suite(kSuite, "suite"));
  REQUIRE(quality.ok());
  CHECK(quality->score == 1);
  NeedleOptions needles;
  needles.lengths = {200, 1000};
  auto needle = run_needle(server.endpoint, needles);
  REQUIRE(needle.ok());
  CHECK(needle->recall == 1);
  REQUIRE(needle->rows.size() == 6);
  for (const NeedleRow& row : needle->rows) {
    CHECK(row.prompt_tokens > row.length * 0.85);
    CHECK(row.prompt_tokens <= row.length + 8);
  }
  CHECK(server.child().stop(1).to_string() == "killed by SIGTERM");
}

TEST_CASE("scripted faults of quality and recall show as results, not errors") {
  FakeServer server(
      R"({"suite":"SUITE","rules":[{"when":{"cache_type_k":["tbq3_0"]},"set":{"quality":0.5,"needle":0.34}}]})",
      {"-ctk", "tbq3_0", "--unknown-flag", "7"});
  auto quality = run_quality(server.endpoint, *parse_suite(kSuite, "suite"));
  REQUIRE(quality.ok());
  CHECK(quality->passed == 2);
  CHECK(quality->items[3].verdict == Verdict::kMiss);
  auto needle = run_needle(server.endpoint, {.lengths = {200}});
  REQUIRE(needle.ok());
  CHECK(needle->recall == doctest::Approx(1.0 / 3));
}

TEST_CASE("prompts beyond the context are errors of their item") {
  FakeServer server("{}", {"-c", "256"});
  auto needle = run_needle(server.endpoint, {.lengths = {400}});
  REQUIRE(needle.ok());
  CHECK(needle->recall == 0);
  CHECK(needle->rows[0].verdict == NeedleVerdict::kError);
  CHECK(needle->rows[0].answer.find("exceeds the available context size") != std::string::npos);
}

TEST_CASE("impossible rates and cached prompts are refused") {
  FakeServer fast(R"({"behaviour":"too-fast"})");
  auto speed = run_speed(fast.endpoint, quick());
  REQUIRE(speed.ok());
  CHECK(speed->implausible.find("claims 1000000") != std::string::npos);
  FakeServer cached(R"({"behaviour":"cached"})");
  speed = run_speed(cached.endpoint, quick());
  REQUIRE(speed.ok());
  CHECK(speed->implausible.find("from a cache") != std::string::npos);
}

TEST_CASE("a crash, a hang and garbage are errors of their own kind") {
  auto fault = [](const auto& result) {
    REQUIRE_FALSE(result.ok());
    return os::http_fault(result.failure());
  };
  FakeServer crash(R"({"behaviour":"crash-mid-probe","after_requests":2})");
  CHECK(fault(run_speed(crash.endpoint, quick())) == os::HttpFault::kClosed);
  CHECK(crash.child().wait(5)->to_string() == "killed by SIGABRT");
  CHECK(fault(run_quality(crash.endpoint, *parse_suite(kSuite, "suite"))) == os::HttpFault::kRefused);

  FakeServer dead(R"({"behaviour":"healthy-but-dead"})");
  CHECK(dead.status("/health") == 200);
  dead.endpoint.timeout_s = 0.3;
  CHECK(fault(run_speed(dead.endpoint, quick())) == os::HttpFault::kTimedOut);
  dead.endpoint.timeout_s = 10;
  dead.endpoint.stall_timeout_s = 0.3;
  auto needle = run_needle(dead.endpoint, {.lengths = {100}});
  CHECK(fault(needle) == os::HttpFault::kNoData);

  FakeServer garbage(R"({"behaviour":"garbage-json"})");
  auto speed = run_speed(garbage.endpoint, quick());
  REQUIRE_FALSE(speed.ok());
  CHECK(speed.failure().what.find("an event that is no JSON") == 0);
}

TEST_CASE("a stream that ends politely but too early is an error") {
  FakeServer server(R"({"behaviour":"cut-off"})");
  auto generation = complete(server.endpoint, "hello", 8, true);
  REQUIRE_FALSE(generation.ok());
  CHECK(generation.failure().what == "the stream ended before the answer was complete");
}

TEST_CASE("endless thinking ends at max_tokens and counts as no answer") {
  FakeServer server(R"({"behaviour":"endless-thinking","suite":"SUITE"})");
  auto quality = run_quality(server.endpoint, *parse_suite(kSuite, "suite"));
  REQUIRE(quality.ok());
  CHECK(quality->items[0].verdict == Verdict::kCutOff);
  auto generation = chat(server.endpoint, {{"user", "hello"}}, 20);
  REQUIRE(generation.ok());
  CHECK(generation->content.empty());
  CHECK_FALSE(generation->reasoning.empty());
  CHECK(generation->ttft_ms > 0);
  CHECK(generation->finish_reason == "length");
}

TEST_CASE("a cancelled probe ends at once") {
  FakeServer server(R"({"decode_tps":10})");
  std::atomic<bool> cancelled{false};
  server.endpoint.cancelled = &cancelled;
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancelled = true;
  });
  auto start = std::chrono::steady_clock::now();
  auto speed = run_speed(server.endpoint, quick());
  canceller.join();
  REQUIRE_FALSE(speed.ok());
  CHECK(os::http_fault(speed.failure()) == os::HttpFault::kCancelled);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(600));
}

TEST_CASE("faults at load") {
  {
    FakeServer server(R"({"behaviour":"exit-during-load","exit_code":7})");
    CHECK(server.child().wait(5)->to_string() == "exit code 7");
  }
  {
    FakeServer server(R"({"behaviour":"oom"})");
    CHECK(server.child().wait(5)->code == 1);
    CHECK(server.log().find("failed to allocate buffer for kv cache") != std::string::npos);
  }
  {
    FakeServer server(R"({"behaviour":"killed-for-memory"})");
    CHECK(server.child().wait(5)->to_string() == "killed by SIGKILL");
  }
  {
    FakeServer server(R"({"behaviour":"503-forever"})", {}, false);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(server.status("/health") == 503);
  }
  {
    FakeServer server(R"({"behaviour":"hang-at-load"})", {}, false);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(server.status("/health") == 0);
    CHECK_FALSE(server.child().poll().has_value());
  }
  {
    FakeServer server(R"({"behaviour":"fork-away","load_s":2})", {}, false);
    auto exit = server.child().wait(5);
    REQUIRE(exit.has_value());
    CHECK(exit->code == 0);
    server.child().stop(0);
    CHECK(server.status("/health") == 0);
  }
  {
    FakeServer server(R"({"behaviour":"ignore-sigterm"})");
    CHECK(server.child().stop(0.1).to_string() == "killed by SIGKILL");
  }
}

TEST_CASE("of many servers that fork away at the worst moment none survives") {
  for (int i = 0; i < 60; ++i) {
    FakeServer server(R"({"behaviour":"fork-away","load_s":2})", {}, false);
    REQUIRE(server.child().wait(5).has_value());
    server.child().stop(0);
  }
  std::string mine = std::to_string(::getpid()) + "-";
  for (const auto& process : os::processes_with_variable("AUTORESEARCH_LAUNCH")) {
    const pid_t pid = process.first;
    const std::string& id = process.second;
    CHECK_FALSE_MESSAGE(id.starts_with(mine), "pid ", pid, " of launch ", id);
  }
}

TEST_CASE("scenario rules read llama-server's spellings") {
  using fake::parse_flags;
  auto flags = parse_flags({"-m", "x.gguf", "-ctk", "q8_0", "--cache-type-v=q4_0", "-c", "32768", "--no-mmap",
                            "-ngl", "-1", "--mlock"});
  CHECK(flags["cache_type_k"] == "q8_0");
  CHECK(flags["cache_type_v"] == "q4_0");
  CHECK(flags["n_gpu_layers"] == "-1");
  CHECK(flags["no_mmap"] == "true");
  CHECK(flags["mlock"] == "true");
  const char* text = R"({"decode_tps":24,"rules":[
      {"when":{"cache_type_k":"q8_0","cache_type_v":["q4_0","q4_1"]},"set":{"decode_tps":9}},
      {"when":{"ctx_size":{"min":32768},"cache_type_k":"f16"},"set":{"behaviour":"oom"}}]})";
  auto scenario = fake::parse_scenario(text, "s", flags);
  REQUIRE(scenario.ok());
  CHECK(scenario->decode_tps == 9);
  CHECK(scenario->behaviour == "ok");
  flags["cache_type_k"] = "f16";
  CHECK(fake::parse_scenario(text, "s", flags)->behaviour == "oom");
  CHECK(fake::parse_scenario(text, "s", flags)->decode_tps == 24);
  CHECK_FALSE(fake::parse_scenario(R"({"decode_tpz":24})", "s", flags).ok());
  CHECK_FALSE(fake::parse_scenario(R"({"decode_tps":"24"})", "s", flags).ok());
}
