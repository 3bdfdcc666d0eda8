#pragma once
// `autoresearch plan`: what a study would begin with and what a night has room for, without launching
// anything.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "search/recorded_grid.h"
#include "src/study/study.h"

namespace study {

// Speeds assumed for the estimate; the study measures its own.
struct PlanRates {
  double decode_tps = 20, prefill_tps = 300;
};

struct PlannedTrial {
  std::string phase;   // default, sweep; random or grid for those strategies
  std::string change;  // "cache_type_k=q8_0", "default"
  double measure_s = 0;
  uint64_t memory_bytes = 0;  // weights, KV cache and workspace; 0 = not known
  std::string cannot_fit;     // why it will not be launched; "" = it may fit
  bool in_place = false;      // the server of the trial before is changed: no load
};

// What is known of memory before anything runs; see MemoryForecast. Empty functions: nothing.
struct PlanMemory {
  std::function<uint64_t(const search::Config&)> bytes;
  std::function<std::string(const search::Config&)> cannot_fit;
  uint64_t host_bytes = 0;
};

// What comes after the search: nothing with --confirm 0, no finals where no speed decides. Failures apart, which are
// launched again.
struct PlannedEnd {
  int finals = 0;                           // at most
  int confirm_least = 0, confirm_most = 0;  // launches or, in place, changes of one running server
  bool in_place = false;                    // every axis is changed so
  int cold = 0;                             // launches beside these changes
  double launch_s = 0, change_s = 0;        // of one that measures speed alone
  // Entries of the objective before its last: a winner that one of them decides ("ctx_size") is launched so often, and
  // no more, whatever the noise; "" = there are none.
  std::string decided_by;
  int decided_changes = 0, decided_launches = 0;
  int repeats = 0;  // before all that: what the search launched, again (search.repeats)
  int anchors = 0;  // the default, among these

  double decided_s() const { return decided_changes * change_s + decided_launches * launch_s; }
  double repeats_s() const { return (repeats + anchors) * one_s(); }
  double finals_s() const { return finals * one_s(); }
  double least_s() const { return confirm_least * one_s() + cold * launch_s; }
  double most_s() const { return confirm_most * one_s() + cold * launch_s; }
  double one_s() const { return in_place ? change_s : launch_s; }
};

struct Plan {
  size_t axes = 0;
  double grid_size = 0;
  std::vector<PlannedTrial> first;  // everything before the search depends on results
  int max_trials = 0;
  std::string strategy;
  bool open_ended = false;  // steps follow that depend on results
  PlanRates rates;
  double load_s = 0, load_worst_s = 0;  // one launch until it answers
  double measure_s = 0;                 // mean over `first`
  double available_s = 0;               // 0 = no limit of time
  int fits = 0, fits_worst = 0;         // trials, at most max_trials; time for the least confirmation is kept
  PlannedEnd end;
  double kept_s = 0, kept_worst_s = 0;  // of available_s, for the end; the latter by load_worst_s
  uint64_t host_bytes = 0;              // memory to fit into; 0 = not known
};

// Pure. At most `list_at_most` trials are listed. Trials are taken to succeed unless the
// forecast says that they cannot fit: such a one is not launched and takes no time.
// `in_place`: see search::Limits; `confirm_launches`: see LoopOptions.
Plan make_plan(const Study& study, const PlanRates& rates, double available_s, int list_at_most = 100,
               const PlanMemory& memory = {}, const std::vector<std::string>& in_place = {},
               int confirm_launches = 3);
std::string to_text(const Study& study, const Plan& plan);

// How many trials search.budget has room for by the file's own estimates, for
// search::Limits::expected_trials; 0 without a budget. A function of the study alone, so that a resumed one
// plans alike.
int expected_trials(const Study& study);

// How soon each strategy would have found the best of a grid that was recorded of the same space (recorded_grid.h,
// other_search): `noise` is the scatter of its launches, 5% where it was recorded without repeats.
struct StrategyForecast {
  std::string name;
  std::optional<double> median;  // trials to within 2% of the best; nullopt: later than max_trials
  double reached = 0;            // share of runs that got there
  double unknown = 0;            // points that were not recorded, asked for by one run on average
};
struct GridForecast {
  std::string path;
  size_t points = 0;
  double missing = 0;  // points that the constraints allow and nobody recorded; not `counted`: at most
  bool counted = true;
  bool unfinished = false;  // the grid's study can be resumed
  int seeds = 0, max_trials = 0;
  double noise = 0;
  bool pareto = false;    // the best is a front: 98% of its volume is looked for
  std::string elsewhere;  // recorded_elsewhere()
  std::vector<StrategyForecast> strategies;
};
// Runs of at most 60 trials. `progress` (may be empty) is told before each how many are done, and of how many.
GridForecast forecast_strategies(const search::RecordedGrid& grid, const std::vector<std::string>& in_place,
                                 const std::string& path, int max_trials, int seeds,
                                 const std::function<void(int, int)>& progress = {});
std::string to_text(const Study& study, const GridForecast& forecast);
// The journals to forecast from, the first that loads: `file`, or where that is "" those of *.jsonl in `directory` that
// fit, the largest first. Error: `file` cannot be read, or is of another space.
base::Result<std::vector<std::string>> find_grids(const Study& study, const std::string& file,
                                                  const std::string& directory);

// 2278125 -> "2,278,125"; 1.2e+17 above 1e15.
std::string grouped(double number);

struct PlanOptions {
  std::string space;                       // path of the space file
  double decode_tps = 0, prefill_tps = 0;  // 0 = from the size of the model file
  double budget_s = -1;                    // -1 = as in the file
  int max_trials = 0;                      // 0 = as in the file
  int confirm_launches = 3;                // see LoopOptions
  std::string grid;  // a recorded grid of the same space; "" = one of results/grids that fits
};

// Prints the plan; exit codes of the design: 0, or 2 with every error of the space file on stderr.
int plan_command(const PlanOptions& options);
// The subcommand: argv[0] is "plan".
int plan_command(int argc, char** argv);

}  // namespace study
