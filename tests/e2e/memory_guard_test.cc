// The memory watchdog with a real server that really takes memory, and the forecast that spares it the attempt.

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr double kGiB = 1 << 30;
constexpr const char* kGoal =
    "objective:\n  maximize: [ctx_size]\nsearch: {strategy: grid, seed: 1, max_trials: 2}\n";

void replace(std::string& text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  REQUIRE_NE(at, std::string::npos);
  text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a server that would take the machine's memory is ended while it loads, and the study goes on") {
  if (!e2e::programs_exist()) {
    return;
  }
  double available = static_cast<double>(os::read_meminfo().available) / kGiB;
  if (available < 6) {
    MESSAGE("skipped: under 6 GiB of memory available");
    return;
  }
  e2e::Driver driver;
  std::string path = driver.scripted_space("  ctx_size: {values: [2048, 4096], default: 2048}\n",
                                           R"({"decode_tps": 2000, "prefill_tps": 100000, "rules": [
          {"when": {"ctx_size": 4096}, "set": {"allocate_mib": 5120}}]})",
                                           kGoal);
  const double floor_gib = available - 2.5;  // others may come and go meanwhile
  std::string text = e2e::read(path);
  replace(text, "min_headroom_gib: 0", "min_headroom_gib: " + std::to_string(floor_gib));
  replace(text, "load_timeout: 3s", "load_timeout: 60s");
  e2e::write(path, text);
  e2e::Result result =
      driver.run({"run", "--space", path, "--out", driver.path("j.jsonl"), "--confirm", "0", "--quiet"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK(driver.all_gone(5));
  std::vector<Json> ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 2);
  CHECK_EQ(ends[0]["status"], "ok");
  const Json& greedy = ends[1];
  CHECK_EQ(greedy["status"], "oom");
  CHECK(has(greedy["reason"], "stopped by the memory guard: headroom fell to"));
  CHECK(greedy["t_load_s"].is_null());
  const Json& memory = greedy["memory"];
  // Two sample periods near the floor are a tenth of a second: far from all that it wanted.
  CHECK_LT(memory["rss_peak"].get<double>(), 4.5 * kGiB);
  CHECK_GT(memory["headroom_min"].get<double>(), (floor_gib - 2) * kGiB);
  CHECK_LT(memory["headroom_min"].get<double>(), floor_gib * kGiB);
  for (const char* field :
       {"total", "available_before", "available_min", "available_after", "headroom_before",
        "swap_used_before", "swap_used_max", "swap_in", "swap_out", "rss_file_peak", "psi_full_avg10_max",
        "psi_full_s", "refaults", "refaults_anon", "major_faults", "samples", "sample_us"}) {
    CHECK_MESSAGE(memory.contains(field), field);
  }
  // The host has it back.
  CHECK_GT(memory["available_after"].get<double>(), memory["available_min"].get<double>());
}
