// The mission replayed: configs/minimax.yaml, its axes and objective untouched, against a scripted server with the
// numbers of the box it was written for (tests/data/minimax_box.json). A night in seconds.

#include <algorithm>
#include <sstream>

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr int kTrials = 40;

// The axes and the objective as in the repository; program, suite and time-outs of this machine.
std::string mission_space(const e2e::Driver& driver) {
  const std::string root = AR_SOURCE_DIR;
  std::filesystem::copy_file(root + "/tests/data/tiny.gguf", driver.path("model.gguf"));
  auto script = base::parse_json(e2e::read(root + "/tests/data/minimax_box.json"), "minimax_box.json");
  REQUIRE(script.ok());
  (*script)["suite"] = root + "/configs/prompts/known-answer.json";
  (*script)["launch_counter"] = driver.path("launches");  // the same luck each time
  e2e::write(driver.path("box.json"), script->dump());
  std::string text = e2e::read(root + "/configs/minimax.yaml");
  REQUIRE(e2e::replace_line(text, "kind:",
                            "  kind: tbq-server\n  binary: " + e2e::program("fake-server") +
                                "\n  args: [--scenario, " + driver.path("box.json") + "]"));
  REQUIRE(e2e::replace_line(text, "load_timeout:", "  load_timeout: 30s"));
  REQUIRE(e2e::replace_line(text, "load_estimate:", "  load_estimate: 100ms"));
  REQUIRE(e2e::replace_line(text, "request_timeout:", "  request_timeout: 30s"));
  REQUIRE(e2e::replace_line(text, "stall_timeout:", "  stall_timeout: 20s"));
  REQUIRE(e2e::replace_line(text, "until:", ""));  // the night ends when the trials do
  e2e::replace_line(text, "service:", "");         // nothing to stop here
  e2e::replace_line(text, "load_stall:", "");      // must stay under load_timeout
  REQUIRE(e2e::replace_line(
      text, "quality:", "  quality: {suite: " + root + "/configs/prompts/known-answer.json, margin: 0.05}"));
  e2e::write(driver.path("minimax.yaml"), text);
  return driver.path("minimax.yaml");
}

}  // namespace

TEST_CASE("the mission replayed: tbq4_0/tbq3_0 and 96K, 4-bit KV is free, the mixed pair is an anomaly") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  driver.set_env("MODEL=" + driver.path("model.gguf"));
  std::string space = mission_space(driver);
  driver.start(
      {"run", "--space", space, "--out", driver.path("j.jsonl"), "--max-trials", std::to_string(kTrials)});
  e2e::Result result = driver.wait(240);
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 0);  // confirmed
  CHECK(driver.all_gone(2));

  int searched = 0, repeated = 0, four_bit = 0, mixed = 0;
  std::map<std::string, int> statuses;
  for (const Json& end : driver.ends("j.jsonl")) {
    std::string status = end["status"], phase = end["phase"], k = end["params"]["cache_type_k"],
                v = end["params"]["cache_type_v"];
    ++statuses[status];
    const bool again = phase == "confirm" || phase == "final";
    repeated += again ? 1 : 0;
    searched += status != "skipped_predicted" && !again ? 1 : 0;
    four_bit += status == "ok" && k == "q4_0" && v == "q4_0" ? 1 : 0;
    mixed += (k == "q8_0" && v == "q4_0") || (k == "q4_0" && v == "q8_0") ? 1 : 0;
    if (status == "oom") {  // the box's arithmetic, not a failure of ours
      CHECK_GT(end["params"]["ctx_size"].get<int>(), 16384);
    } else {
      CHECK((status == "ok" || status == "pruned" || status == "quality_fail" ||
             status == "skipped_predicted"));
    }
  }
  std::string summary;
  for (const auto& entry : statuses) {
    summary += entry.first + " " + std::to_string(entry.second) + "  ";
  }
  MESSAGE(searched << " trials of the search, " << searched + repeated
                   << " with the finals and the confirmation: " << summary);
  CHECK_LE(searched, kTrials);
  CHECK_GT(statuses["oom"], 0);

  Json last = driver.journal("j.jsonl").back();
  REQUIRE_EQ(last["type"], "study_end");
  CHECK_EQ(last["verdict"], "confirmed");
  bool found = false;
  for (const Json& end : driver.ends("j.jsonl")) {
    if (end["trial_id"] == last["best_trial_id"]) {
      found = true;
      CHECK_EQ(end["params"]["cache_type_k"], "tbq4_0");
      CHECK_EQ(end["params"]["cache_type_v"], "tbq3_0");
      CHECK_GE(end["params"]["ctx_size"].get<int>(), 98304);
    }
  }
  CHECK(found);

  // What the person reads at 07:00.
  CHECK_GT(four_bit, 0);
  CHECK_GT(mixed, 0);
  e2e::Result report = driver.run({"report", driver.path("j.jsonl")});
  CAPTURE(report.out);
  CHECK_EQ(report.code, 0);
  CHECK(has(report.out, "cache_type_k=tbq4_0"));
  CHECK(has(report.out, "cache_type_v=tbq3_0"));
  auto line_with = [&](const std::vector<std::string>& pieces) {
    std::istringstream lines(report.out);
    for (std::string line; std::getline(lines, line);) {
      if (std::all_of(pieces.begin(), pieces.end(),
                      [&](const std::string& piece) { return has(line, piece); })) {
        return true;
      }
    }
    return false;
  };
  CHECK(line_with({"q4_0", "free"}));
  CHECK(line_with({"q8_0", "q4_0", "mixed"}));
}
