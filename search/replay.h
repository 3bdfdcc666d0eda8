#pragma once
// Any strategy against a recorded grid: no server, no clock. What replay tells a strategy is the grid's truth under fresh
// noise.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "search/recorded_grid.h"

namespace search {

struct ReplayOptions {
  double noise = 0.05;  // sigma of the logarithm, launch to launch; also what the strategy is told of it
  double drift = 0;     // the machine's speed swings by this much to either side, once in 40 trials
  int max_trials = 60;
};

struct ReplayTrial {
  Config config;
  Outcome told;
  double shortfall = 1;  // true one of the best launched so far
};

// How one run ended. The driver's end of a study is played, too: finals in waves of 6, 3 and 2 fresh launches, then
// six fresh pairs of winner and default. A winner is claimed where the 95% interval of their ratio lies above 1, or
// where an earlier entry of the objective decides; else the default stands. Not with `pareto`: there is no one winner.
struct ReplayRun {
  std::vector<ReplayTrial> trials;  // launches only
  std::optional<int> reached;       // the first trial within kNear of the best; nullopt: never
  int failed = 0;                   // launches that gave no feasible outcome
  int unknown = 0;                  // points the grid lacks; the strategy was told that they failed
  double shortfall = 1;             // after the last trial
  Config named;                     // the winner claimed, or the default
  double named_shortfall = 1;
  bool claimed = false;
  bool false_winner = false;  // claimed, yet truly no better than the default, or not feasible
  // The best is truly 10% or more above the default; and what was claimed gains that, to within kNear.
  bool gain_exists = false, gain_found = false;
};

// `strategy` is a fresh one made with the same max_trials. Noise depends on `seed`, configuration and launch alone, so
// that strategies meet the same luck.
ReplayRun replay(const RecordedGrid& grid, Strategy& strategy, uint64_t seed, const ReplayOptions& options);

// Seeds from 1 up, each with a strategy made afresh; `in_place`: see Limits. `each` (may be empty) is told the seed before
// its run.
std::vector<ReplayRun> replay_seeds(const RecordedGrid& grid, const StrategyInfo& info, int seeds,
                                    const ReplayOptions& options,
                                    const std::vector<std::string>& in_place = {},
                                    const std::function<void(int)>& each = {});

// Of many runs: quartiles of `reached`, a run that never did counting as later than any; nullopt: later than the last
// trial.
struct ReplaySummary {
  int runs = 0;
  std::optional<double> lower, median, upper;
  double reached = 0;         // share of runs that came within kNear
  double named_near = 0;      // share in which the configuration named at the end is
  double false_winners = 0;   // share of all runs
  double gain_found = 0;      // share of those in which gain_exists; 0 where it never does
  double failed_trials = 0;   // share of all launches
  double mean_shortfall = 0;  // after the last trial
  bool gain_exists = false;
  int unknown = 0;
};
ReplaySummary summarize(const std::vector<ReplayRun>& runs);
// [i]: the median over runs of the share of the best that the first i + 1 launches had come to (0 before anything was
// feasible); a run that ended earlier keeps what it had. `trials` entries.
std::vector<double> median_progress(const std::vector<ReplayRun>& runs, int trials);

}  // namespace search
