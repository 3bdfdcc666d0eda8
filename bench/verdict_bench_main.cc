// How often the driver is right about noise: studies over the scripted server with launch noise, some with a true
// gain, some without any difference.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>

#include "bench/study_runs.h"

namespace {

struct Options {
  int seeds = 20, first_seed = 1, trials = 20, jobs = 2;
  double gain = 0.10, noise = 0.05;
  std::string reuse = "auto", keep, out;
};

struct Tally {
  int confirmed = 0, right = 0, default_stands = 0, unconfirmed = 0, other = 0, launches = 0;
  double wall_s = 0;

  void add(const Tally& one) {
    confirmed += one.confirmed;
    right += one.right;
    default_stands += one.default_stands;
    unconfirmed += one.unconfirmed;
    other += one.other;
    launches += one.launches;
    wall_s += one.wall_s;
  }
};

Tally one_study(const Options& options, double gain, int seed) {
  Tally tally;
  e2e::Process process;
  // Slow enough for a clock on a busy host, so that the noise is the script's.
  std::string scenario = fmt::format(
      R"({{"decode_tps": 200, "prefill_tps": 100000, "noise": 0.02, "launch_noise": {}, "seed": {},
           "launch_counter": "{}", "numerics": true, "reconfigure": ["n_threads", "n_ubatch", "n_batch"],
           "rules": [{{"when": {{"threads": "3"}}, "set": {{"decode_tps": {}}}}}]}})",
      options.noise, seed, process.path("launches"), 200 * (1 + gain));
  std::string space = process.scripted_space(
      "  n_threads: {values: [1, 2, 3, 4], default: 1}\n  n_ubatch: {values: [128, 256, 512], default: 256}\n"
      "  n_batch: {values: [512, 1024, 2048], default: 1024}\n",
      scenario,
      fmt::format("objective: {{maximize: [decode_tps]}}\nsearch: {{strategy: two-phase, seed: {}, "
                  "max_trials: {}}}\n",
                  seed, options.trials),
      "  quality: {suite: suite.json, margin: 0.05}\n  speed: {n_prompt: 32, n_gen: 24, repeats: 3, warmups: "
      "0}\n"
      "  needle: {lengths: [100], depths: [0.5]}\n  memory: {min_headroom_gib: 0}\n",
      "  load_timeout: 20s\n  reuse: " + options.reuse + "\n");
  e2e::Result result = bench::run_driver(
      process, {"run", "--space", space, "--out", process.path("j.jsonl"), "--quiet"}, 600, {0, 4, 10});
  tally.wall_s += result.wall_s;
  std::vector<bench::Json> ends = bench::records(process.path("j.jsonl"), "trial_end");
  std::vector<bench::Json> last = bench::records(process.path("j.jsonl"), "study_end");
  tally.launches += static_cast<int>(ends.size());
  std::string verdict = last.empty() ? "" : base::json_get<std::string>(last.back(), "verdict", "");
  tally.confirmed += verdict == "confirmed" ? 1 : 0;
  tally.default_stands += verdict == "default_stands" ? 1 : 0;
  tally.unconfirmed += verdict == "unconfirmed" ? 1 : 0;
  tally.other += verdict != "confirmed" && verdict != "default_stands" && verdict != "unconfirmed" ? 1 : 0;
  for (const bench::Json& end : ends) {
    if (verdict == "confirmed" && end["trial_id"] == last.back()["best_trial_id"] &&
        end["phase"] != "confirm") {
      tally.right += end["params"]["n_threads"] == 3 ? 1 : 0;
      break;
    }
  }
  const bool expected = gain > 0 ? tally.right == 1 : tally.default_stands == 1;
  if (!expected && !options.keep.empty()) {
    std::filesystem::copy_file(process.path("j.jsonl"),
                               fmt::format("{}/{}-{:+.0f}-{}.jsonl", options.keep, verdict, gain * 100, seed),
                               std::filesystem::copy_options::overwrite_existing);
  }
  return tally;
}

// The studies of every seed, `jobs` at a time: the scripted servers sleep most of the time.
Tally all_studies(const Options& options, double gain) {
  Tally sum;
  std::mutex mutex;
  std::atomic<int> next = 0;
  std::vector<std::jthread> workers;
  for (int job = 0; job < options.jobs; ++job) {
    workers.emplace_back([&] {
      for (int i = next++; i < options.seeds; i = next++) {
        Tally one = one_study(options, gain, options.first_seed + i);
        std::lock_guard lock(mutex);
        sum.add(one);
      }
    });
  }
  workers.clear();  // joins
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"how often a true gain is confirmed, and how often the default stands where nothing differs"};
  app.add_option("--seeds", options.seeds, "studies of each kind")->check(CLI::Range(1, 10000));
  app.add_option("--first-seed", options.first_seed, "seed of the first");
  app.add_option("--trials", options.trials, "trials of one search")->check(CLI::Range(2, 100));
  app.add_option("--gain", options.gain, "the true gain");
  app.add_option("--noise", options.noise, "sigma of one launch");
  app.add_option("--jobs", options.jobs, "studies at a time (they sleep most of the time)")
      ->check(CLI::Range(1, 64));
  app.add_option("--reuse", options.reuse, "auto or never")->check(CLI::IsMember({"auto", "never"}));
  app.add_option("--keep", options.keep, "folder for the journals of the studies that were wrong")
      ->check(CLI::ExistingDirectory);
  app.add_option("--out", options.out, "write the results there, such as results/verdict-bench.md");
  CLI11_PARSE(app, argc, argv);
  bench::Report report("verdict-bench: what a night's verdict is worth", argc, argv);
  report.line(
      "| truth | studies | confirmed | the right winner | default stands | unconfirmed | other | trials a "
      "study | seconds a study |");
  report.line("|---|---|---|---|---|---|---|---|---|");
  for (double gain : {options.gain, 0.0}) {
    Tally tally = all_studies(options, gain);
    auto share = [&](int n) { return fmt::format("{:.0f}%", 100.0 * n / options.seeds); };
    report.line(fmt::format("| {:+.0f}% | {} | {} | {} | {} | {} | {} | {:.1f} | {:.1f} |", gain * 100,
                            options.seeds, share(tally.confirmed), share(tally.right),
                            share(tally.default_stands), share(tally.unconfirmed), share(tally.other),
                            static_cast<double>(tally.launches) / options.seeds,
                            tally.wall_s / options.seeds));
  }
  return report.save(options.out) ? 0 : 1;
}
