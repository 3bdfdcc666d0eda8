// Killed at any instant, a study leaves no process and resumes without losing or repeating a result.

#include <random>

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr const char* kAxes =
    "  cache_type_k: {values: [f16, q8_0, q4_0], default: f16}\n"
    "  n_ubatch: {values: [128, 256], default: 128}\n";
constexpr const char* kScenario = R"({"decode_tps": 200, "load_s": 0.15})";
constexpr const char* kGoal =
    "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 6}\n";

constexpr int kKills = 10;

// What must not depend on interruptions: what was tried, how it ended, what was answered.
std::vector<std::string> results(const e2e::Driver& driver) {
  std::vector<std::string> out;
  for (const Json& end : driver.ends("j.jsonl")) {
    out.push_back(end["params_hash"].get<std::string>() + " " + end["phase"].get<std::string>() + " " +
                  end["status"].get<std::string>() + " " + end.value("quality_items", Json()).dump());
  }
  return out;
}

}  // namespace

TEST_CASE("kill -9 anywhere: no process after a second, and resume finishes the same study") {
  if (!e2e::programs_exist()) {
    return;
  }
  for (const char* scenario : {R"({"decode_tps": 200, "load_s": 0.15})",
                               R"({"decode_tps": 200, "load_s": 0.15, "numerics": true, "reconfigure_s": 0.05,
            "reconfigure": ["cache_type_k", "n_ubatch"]})"}) {
    CAPTURE(scenario);
    std::vector<std::string> undisturbed;
    double undisturbed_s = 0;
    {
      e2e::Driver driver;
      std::string space = driver.scripted_space(kAxes, scenario, kGoal);
      e2e::Result result =
          driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
      CHECK_EQ(result.code, 10);
      undisturbed_s = result.wall_s;
      undisturbed = results(driver);
    }
    REQUIRE_EQ(undisturbed.size(), 6);

    e2e::Driver driver;
    std::string space = driver.scripted_space(kAxes, scenario, kGoal);
    driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
    std::mt19937 random(7);
    int kills = 0;
    for (int i = 0; i < kKills; ++i) {
      // Later than the start of most launches, so that trials do end.
      e2e::nap_ms(static_cast<int>(undisturbed_s * 1000 / 6 * (0.2 + random() % 1000 / 800.0)));
      driver.signal(SIGKILL);
      kills += driver.wait().code == 128 + SIGKILL ? 1 : 0;
      CHECK(driver.all_gone(1));
      std::vector<std::string> finished = results(driver);
      REQUIRE_LE(finished.size(), undisturbed.size());
      for (size_t k = 0; k < finished.size(); ++k) {
        CHECK_EQ(finished[k], undisturbed[k]);
      }
      if (!std::filesystem::exists(driver.path("j.jsonl")) || e2e::read(driver.path("j.jsonl")).empty()) {
        driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
      } else {
        driver.start({"resume", driver.path("j.jsonl"), "--confirm", "0"});
      }
    }
    e2e::Result last = driver.wait();
    CAPTURE(last.out);
    CAPTURE(last.err);
    CHECK_EQ(last.code, 10);
    CHECK_GE(kills, 3);
    CHECK_EQ(results(driver), undisturbed);
    CHECK(driver.all_gone(1));
  }
}

TEST_CASE("Ctrl-C and SIGTERM stop cleanly and leave a resumable journal") {
  if (!e2e::programs_exist()) {
    return;
  }
  for (int number : {SIGINT, SIGTERM}) {
    CAPTURE(number);
    e2e::Driver driver;
    // Slow enough to be in a probe, or in a load, when the signal comes.
    std::string scenario =
        number == SIGINT ? R"({"decode_tps": 10})" : R"({"decode_tps": 2000, "load_s": 2})";
    std::string space = driver.scripted_space(kAxes, scenario, kGoal);
    driver.start({"run", "--space", space, "--out", driver.path("j.jsonl")});
    while (driver.processes() < 3) {  // driver, guard, candidate
      e2e::nap_ms(5);
    }
    e2e::nap_ms(300);
    auto begin = std::chrono::steady_clock::now();
    driver.signal(number);
    e2e::Result result = driver.wait(10);
    CHECK_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 2);
    CHECK_EQ(result.code, 128 + number);
    CHECK(has(result.out, "autoresearch resume"));
    CHECK(driver.all_gone(1));
    CHECK(driver.ends("j.jsonl").empty());
    CHECK_EQ(driver.journal("j.jsonl").back()["type"], "trial_start");
  }
}

TEST_CASE("Ctrl-C ends the wait for a first token that never comes") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, R"({"behaviour": "healthy-but-dead"})", kGoal);
  std::string text = e2e::read(space);
  const std::string limits = "  request_timeout: 2s\n  stall_timeout: 1s\n";
  REQUIRE(has(text, limits));
  text.replace(text.find(limits), limits.size(), "  request_timeout: 60s\n  stall_timeout: 60s\n");
  e2e::write(space, text);
  driver.start({"run", "--space", space, "--out", driver.path("j.jsonl")});
  while (driver.processes() < 3) {  // driver, guard, candidate
    e2e::nap_ms(5);
  }
  e2e::nap_ms(700);
  auto begin = std::chrono::steady_clock::now();
  driver.signal(SIGINT);
  e2e::Result result = driver.wait(30);
  CHECK_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 3);
  CHECK_EQ(result.code, 128 + SIGINT);
  CHECK(driver.all_gone(1));
  CHECK(driver.ends("j.jsonl").empty());
}

TEST_CASE("a budget that is used up exits 11, and resume with more goes on") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, kScenario, kGoal);
  e2e::Result result = driver.run(
      {"run", "--space", space, "--out", driver.path("j.jsonl"), "--budget", "600ms", "--confirm", "0"});
  CAPTURE(result.out);
  CHECK_EQ(result.code, 11);
  size_t first = driver.ends("j.jsonl").size();
  CHECK_GE(first, 1);
  CHECK_LT(first, 6);
  CHECK_EQ(driver.run({"resume", driver.path("j.jsonl"), "--budget", "60s", "--confirm", "0"}).code, 10);
  CHECK_EQ(driver.ends("j.jsonl").size(), 6);
}
