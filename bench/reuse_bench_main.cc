// What changing a server in place saves: the demo space's search, once with reuse and once without, on the bundled
// server behind a program that takes as long to load as a large model does.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>

#include "bench/study_runs.h"

namespace {

struct Options {
  double load_s = 60;
  int trials = 15, confirm = 3;
  std::string out;
};

struct Run {
  double search_s = 0, whole_s = 0;
  int trials = 0, launches = 0, search_launches = 0;
  std::string winner, verdict;
  std::vector<double> worth;  // the winner's objective, the last entry the mean of its launches
  double noise = 0;           // relative, of one launch
};

// Equal in what the objective names first, and within two standard errors of a launch each in what it names last.
bool equally_good(const Run& a, const Run& b) {
  if (a.worth.empty() || a.worth.size() != b.worth.size() ||
      !std::equal(a.worth.begin(), a.worth.end() - 1, b.worth.begin())) {
    return false;
  }
  return std::fabs(std::log(a.worth.back() / b.worth.back())) <= 2 * std::hypot(a.noise, b.noise);
}

Run one_run(const Options& options, const std::string& reuse) {
  e2e::Process process;
  std::string slow = process.path("slow-server");
  e2e::write(slow, fmt::format("#!/bin/sh\n[ $# -gt 1 ] && sleep {}\nexec {} \"$@\"\n", options.load_s,
                               e2e::program("tbq-server")));  // --help and --version come alone
  ::chmod(slow.c_str(), 0755);
  std::string text = e2e::read(std::string(AR_SOURCE_DIR) + "/configs/demo.yaml");
  bool whole =
      e2e::replace_line(text, "model:", "model: " + e2e::demo_model()) &&
      e2e::replace_line(text, "kind:", "  kind: tbq-server\n  binary: " + slow + "\n  reuse: " + reuse) &&
      e2e::replace_line(text,
                        "load_timeout:", fmt::format("  load_timeout: {:.0f}s", options.load_s * 2 + 60)) &&
      e2e::replace_line(text,
                        "load_estimate:", fmt::format("  load_estimate: {:.0f}s", options.load_s + 1)) &&
      e2e::replace_line(
          text, "quality:",
          "  quality: {suite: " + std::string(AR_SOURCE_DIR) + "/configs/prompts/demo.json, margin: 0.05}");
  if (!whole) {
    fmt::print(stderr, "configs/demo.yaml has not the lines this benchmark changes\n");
    std::exit(1);
  }
  e2e::write(process.path("demo.yaml"), text);
  e2e::Result result = bench::run_driver(
      process,
      {"run", "--space", process.path("demo.yaml"), "--out", process.path("j.jsonl"), "--max-trials",
       std::to_string(options.trials), "--confirm", std::to_string(options.confirm), "--quiet"},
      3600 + 60 * options.load_s, {0, 10, 11});
  Run run;
  run.whole_s = result.wall_s;
  bench::Json best = bench::records(process.path("j.jsonl"), "study_end").back();
  run.verdict = base::json_get<std::string>(best, "verdict", "");
  run.noise = base::json_get<double>(best, "noise", 0);
  uint64_t launches_of_winner = 0;
  for (const bench::Json& end : bench::records(process.path("j.jsonl"), "trial_end")) {
    std::string phase = base::json_get<std::string>(end, "phase", "");
    bool cold = base::json_get(end, "cold", true);
    bool search = phase != "confirm" && phase != "final";
    run.launches += cold ? 1 : 0;
    run.search_launches += cold && search ? 1 : 0;
    run.trials += search ? 1 : 0;
    run.search_s += search ? base::json_get<double>(end, "t_total_s", 0) : 0;
    if (end["trial_id"] == best["best_trial_id"]) {
      run.winner = end["params"].dump();
    }
    if (!run.winner.empty() && end["params"].dump() == run.winner && end["objective"].is_array()) {
      auto worth = end["objective"].get<std::vector<double>>();
      ++launches_of_winner;
      if (run.worth.empty()) {
        run.worth = std::move(worth);
      } else {
        run.worth.back() += (worth.back() - run.worth.back()) / static_cast<double>(launches_of_winner);
      }
    }
  }
  return run;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"the demo space searched with and without changing the server in place"};
  app.add_option("--load-s", options.load_s, "seconds that a start takes more")
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--trials", options.trials, "trials of the search")->check(CLI::Range(2, 1000));
  app.add_option("--confirm", options.confirm, "the driver's --confirm");
  app.add_option("--out", options.out, "write the results there, such as results/reuse-bench.md");
  CLI11_PARSE(app, argc, argv);
  if (e2e::demo_model().empty()) {
    fmt::print(stderr, "no demo model; set AUTORESEARCH_REFERENCE\n");
    return 1;
  }
  bench::Report report("reuse-bench: one server for many trials", argc, argv);
  report.line(fmt::format("Load: {:.0f} s more than the server's own, each start.\n", options.load_s));
  report.line(
      "| reuse | trials | search | launches in it | whole run | launches | verdict | winner | its worth |");
  report.line("|---|---|---|---|---|---|---|---|---|");
  std::vector<Run> runs;
  for (const char* reuse : {"auto", "never"}) {
    runs.push_back(one_run(options, reuse));
    const Run& run = runs.back();
    report.line(fmt::format("| {} | {} | {:.1f} s | {} | {:.1f} s | {} | {} | {} | {:.0f} |", reuse,
                            run.trials, run.search_s, run.search_launches, run.whole_s, run.launches,
                            run.verdict, run.winner, fmt::join(run.worth, ", ")));
  }
  report.line(fmt::format("\nSearch {:.1f}x faster, the whole run {:.1f}x; {}.",
                          runs[1].search_s / runs[0].search_s, runs[1].whole_s / runs[0].whole_s,
                          runs[0].winner == runs[1].winner ? "the same winner"
                          : equally_good(runs[0], runs[1]) ? "another winner, equally good within noise"
                                                           : "ANOTHER WINNER"));
  return report.save(options.out) ? 0 : 1;
}
