// Every strategy against grids in memory that behave as servers do (bench/synthetic_grids.h): how many launches until
// one is within 2% of the best, and what is named at the end.

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "bench/synthetic_grids.h"

namespace {

std::string trials(const std::optional<double>& value, int most) {
  return value ? fmt::format("{:.0f}", *value) : fmt::format(">{}", most);
}

}  // namespace

int main(int argc, char** argv) {
  const int seeds = argc > 1 ? std::atoi(argv[1]) : 50;
  const int most = argc > 2 ? std::atoi(argv[2]) : 60;
  search::ReplayOptions options;
  options.max_trials = most;
  options.noise = argc > 3 ? std::atof(argv[3]) : 0.05;
  const std::string only = argc > 4 ? argv[4] : "";
  for (const bench::NamedGrid& named : bench::synthetic_grids()) {
    if (!only.empty() && named.name != only) {
      continue;
    }
    const auto census = named.grid.census();
    fmt::print("\n{}: {} points, {} feasible, {} within 2% of the best\n", named.name, census.points,
               census.feasible, census.near_best);
    for (const auto& info : search::strategies()) {
      if (info.name == "grid") {
        continue;
      }
      std::vector<search::ReplayRun> runs;
      double asking = 0;
      for (int seed = 1; seed <= seeds; ++seed) {
        search::Limits limits{most};
        limits.pareto = named.grid.pareto();
        auto start = std::chrono::steady_clock::now();
        auto strategy = info.make(named.grid.space(), static_cast<uint64_t>(seed), limits);
        runs.push_back(search::replay(named.grid, *strategy, static_cast<uint64_t>(seed), options));
        asking += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      }
      const auto sum = search::summarize(runs);
      fmt::print(
          "  {:12} {:>4} / {:>4} / {:>4}  reached {:3.0f}%  named near {:3.0f}%  false {:2.0f}%  +10% found "
          "{:3.0f}%  "
          "failed {:2.0f}%  short {:.3f}  {:.3f} s a run\n",
          info.name, trials(sum.lower, most), trials(sum.median, most), trials(sum.upper, most),
          100 * sum.reached, 100 * sum.named_near, 100 * sum.false_winners, 100 * sum.gain_found,
          100 * sum.failed_trials, sum.mean_shortfall, asking / seeds);
    }
  }
}
