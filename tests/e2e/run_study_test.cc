// Whole studies: on the scripted server, on the bundled one, on a real llama-server where one is named.

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr const char* kAxes =
    "  cache_type_k: {values: [f16, q8_0, q4_0], default: f16}\n"
    "  ctx_size: {values: [2048, 4096, 8192], default: 2048}\n";
constexpr const char* kGoal =
    "objective:\n  maximize: [ctx_size, decode_tps]\n  subject_to: [needle_recall >= 1, quality "
    "not_worse_than f16]\n"
    "search: {strategy: two-phase, seed: 1, max_trials: 9}\n";

}  // namespace

TEST_CASE("a scripted study finds what the script hides, and says how to serve it") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, R"({"decode_tps": 2000, "prefill_tps": 100000, "rules": [
    {"when": {"cache_type_k": "f16", "ctx_size": {"min": 8192}}, "set": {"behaviour": "oom"}},
    {"when": {"cache_type_k": "q4_0"}, "set": {"needle": 0}}]})",
                                            kGoal);
  e2e::Result result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl")});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 0);  // confirmed: the context size decides
  CHECK(has(result.out, "Use cache_type_k=q8_0 ctx_size=8192"));
  CHECK(has(result.out, "--ctx-size 8192"));
  CHECK(has(result.out, "--port 8080"));
  CHECK(driver.all_gone(1));

  std::vector<Json> records = driver.journal("j.jsonl");
  CHECK_EQ(records.front()["type"], "study");
  CHECK_EQ(records.back()["type"], "study_end");
  CHECK_EQ(records.back()["verdict"], "confirmed");
  bool out_of_memory = false, needle_lost = false;
  for (const Json& end : driver.ends("j.jsonl")) {
    if (end["status"] == "oom") {
      out_of_memory = true;
      CHECK_FALSE(end.contains("metrics"));
      CHECK(has(end["log_tail"], "insufficient memory"));
      CHECK_EQ(end["exit_code"], 1);
    } else {
      CHECK((end["status"] == "ok" || end["censored"].get<bool>()));
      CHECK_GT(end["metrics"]["decode_tps"].get<double>(), 100);
      CHECK_EQ(end["effective"]["n_ctx"], end["params"]["ctx_size"]);
    }
    if (end["params"]["cache_type_k"] == "q4_0" && end["phase"] == "sweep") {
      needle_lost = true;
      CHECK_EQ(end["status"], "quality_fail");  // ended early: the rest could not matter any more
      CHECK_EQ(end["censored"], true);
      CHECK(has(end["reason"], "needle_recall"));
      CHECK_EQ(end["feasible"], false);
    }
  }
  CHECK(out_of_memory);
  CHECK(needle_lost);

  e2e::Result report = driver.run({"report", driver.path("j.jsonl"), "--port", "9000"});
  CHECK_EQ(report.code, 0);
  CHECK(has(report.out, "--port 9000"));
  e2e::Result again = driver.run({"resume", driver.path("j.jsonl")});
  CHECK_EQ(again.code, 0);
  CHECK(has(again.out, "This study has finished"));
  CHECK_EQ(driver.journal("j.jsonl").size(), records.size());
}

TEST_CASE("a recorded grid is replayed, compared by plan, and known to the next study") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  auto space = [&](const std::string& search) {
    return driver.scripted_space(kAxes, R"({"decode_tps": 2000, "prefill_tps": 100000, "rules": [
          {"when": {"cache_type_k": "f16", "ctx_size": {"min": 8192}}, "set": {"behaviour": "oom"}}]})",
                                 "objective: {maximize: [ctx_size, decode_tps]}\nsearch: {" + search + "}\n");
  };
  const std::string grid = driver.path("g.jsonl");
  e2e::Result result =
      driver.run({"run", "--space", space("strategy: grid, repeats: 2, anchor_every: 3, max_trials: 20"),
                  "--out", grid, "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);

  // A bare --drift takes nothing of what follows it.
  e2e::Result replay = driver.run({"replay", grid, "--drift", "--seeds", "2", "--strategy", "random"});
  CAPTURE(replay.out);
  CAPTURE(replay.err);
  CHECK_EQ(replay.code, 0);
  CHECK(has(replay.out, "2 seeds, launches scattered by 5%, drift 10%"));
  CHECK(has(replay.out, "scripted: 9 points launched, 8 feasible, 1 over a memory limit"));
  CHECK(has(driver.run({"replay", grid, "--seeds", "1", "--drift", "3%"}).out, "drift 3%"));

  const std::string second = space("strategy: two-phase, max_trials: 9");
  e2e::Result plan = driver.run({"plan", "--space", second, "--grid", grid});
  CAPTURE(plan.out);
  CAPTURE(plan.err);
  CHECK_EQ(plan.code, 0);
  CHECK(has(plan.out, "Strategies, replayed on " + grid + " (9 points"));
  CHECK(has(plan.out, "two-phase "));
  e2e::Result empty = driver.run({"plan", "--space", second, "--grid", ""});
  CHECK_EQ(empty.code, 2);
  CHECK(has(empty.err, "--grid: the name of the journal is empty"));

  e2e::write(driver.path("torn.jsonl"), e2e::read(grid) + "{\"type\": \"trial_e");
  e2e::Result warm = driver.run({"run", "--space", second, "--out", driver.path("w.jsonl"), "--confirm", "0",
                                 "--warm-start", driver.path("torn.jsonl")});
  CAPTURE(warm.out);
  CAPTURE(warm.err);
  CHECK_EQ(warm.code, 10);
  CHECK(has(warm.err, "torn.jsonl: its last record was cut off and is left out (17 bytes)"));
  CHECK(has(warm.out, "Warm start: 9 configurations known from study scripted-"));
  // All points are known: the default runs, what is best of them is launched again, and nothing else.
  auto ends = driver.ends("w.jsonl");
  REQUIRE_GE(ends.size(), 2);
  CHECK_LE(ends.size(), 4);
  CHECK_EQ(ends[0]["phase"], "default");
  for (size_t i = 1; i < ends.size(); ++i) {
    CHECK_EQ(ends[i]["phase"], "check");
    CHECK_EQ(ends[i]["params"]["ctx_size"], 8192);
  }
  CHECK_EQ(driver.run({"run", "--space", second, "--warm-start", ""}).code, 2);
}

TEST_CASE("an effective context smaller than asked is a mismatch, not a result") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(
      "  ctx_size: {values: [2048, 8192], default: 2048}\n",
      R"({"decode_tps": 2000, "rules": [{"when": {"ctx_size": {"min": 8192}}, "set": {"n_ctx": 4096}}]})",
      "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 4}\n");
  e2e::Result result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl")});
  CAPTURE(result.out);
  auto ends = driver.ends("j.jsonl");
  REQUIRE_GE(ends.size(), 2);
  CHECK_EQ(ends[1]["status"], "config_mismatch");
  CHECK(has(ends[1]["reason"], "asked for ctx_size 8192, the server runs with 4096"));
}

namespace {

// A small real study; the same checks for both servers.
void real_study(const std::string& backend, const std::string& values) {
  std::string model = e2e::demo_model();
  if (model.empty()) {
    MESSAGE("no demo model: skipped");
    return;
  }
  e2e::Driver driver;
  e2e::write(driver.path("space.yaml"),
             "study: real\nmodel: " + model + "\n" + backend + "axes:\n  cache_type_k: {values: [" + values +
                 "], default: f16}\n  ctx_size: {values: [1024], default: 1024}\n"
                 "objective: {maximize: [decode_tps], subject_to: [needle_recall >= 0]}\n"
                 "search: {strategy: grid, max_trials: 4}\n"
                 "probes:\n  quality: {suite: " +
                 std::string(AR_SOURCE_DIR) +
                 "/configs/prompts/demo.json}\n  speed: {n_prompt: 64, n_gen: 200, repeats: 2, warmups: 1}\n"
                 "  needle: {lengths: [300], depths: [0.5]}\n  memory: {min_headroom_gib: 0.1}\n");
  e2e::Result result = driver.run(
      {"run", "--space", driver.path("space.yaml"), "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK(driver.all_gone(1));
  auto ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 2);
  for (const Json& end : ends) {
    REQUIRE_EQ(end["status"], "ok");
    CHECK_EQ(end["effective"]["n_ctx"], 1024);
    CHECK_GT(end["metrics"]["decode_tps"].get<double>(), 1);
    CHECK_GT(end["metrics"]["quality"].get<double>(), 0.8);
    CHECK_GT(end["metrics"]["rss_gib"].get<double>(), 0.005);
    CHECK_GT(end["speed"]["samples"][0]["timings"]["predicted_per_second"].get<double>(), 1);
  }
  Json header = driver.journal("j.jsonl").front();
  CHECK_EQ(header["model"]["architecture"], "llama");
  CHECK_GT(header["binary"]["version"].get<std::string>().size(), 3);
}

}  // namespace

TEST_CASE("a study on the bundled server") {
  if (!e2e::programs_exist() || !std::filesystem::exists(e2e::program("tbq-server"))) {
    MESSAGE("tbq-server is not built: skipped");
    return;
  }
  real_study("backend: {kind: tbq-server}\n", "f16, tbq4_0");
}

TEST_CASE("the same study on llama-server") {
  const char* server = std::getenv("AUTORESEARCH_LLAMA_SERVER");
  if (!e2e::programs_exist() || server == nullptr) {
    MESSAGE("AUTORESEARCH_LLAMA_SERVER names no llama-server: skipped");
    return;
  }
  real_study("backend: {kind: llama-server, binary: " + std::string(server) + "}\n", "f16, q8_0");
}
