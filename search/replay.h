#pragma once
// Any strategy against a grid that was measured once: no server, no clock. A grid is a space with the outcome of every
// configuration that was launched, repeats pooled; what replay tells a strategy is that truth under fresh noise.

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "search/strategy.h"

namespace search {

class RecordedGrid {
 public:
  // `noisy`: which entries of the objective are speeds, on which noise and drift act; `pareto`: entries of equal rank.
  RecordedGrid(Space space, std::vector<bool> noisy, bool pareto = false);

  // One launch; repeats are pooled (history.h). A forecast counts as out of memory where nothing was launched.
  void add(const Config& config, const Outcome& outcome);

  struct Point {
    Config config;  // canonical
    Outcome outcome;
    int launches = 0;  // measured ones
  };
  const std::vector<Point>& points() const { return points_; }
  // nullptr: not recorded.
  const Outcome* find(const Config& canonical) const;
  const Space& space() const { return space_; }
  bool pareto() const { return pareto_; }
  bool noisy(size_t entry) const { return entry < noisy_.size() && noisy_[entry]; }

  struct Census {
    size_t points = 0, feasible = 0, out_of_memory = 0, failed = 0;
    size_t near_best = 0;           // within kNear of the best
    std::optional<size_t> missing;  // of all that the constraints allow; nullopt: too many to walk
    double scatter = 0;  // relative, launch to launch, of the last entry, pooled over repeats; 0 = none
  };
  Census census() const;

  // Of the best feasible point by best_of (with `pareto` nullptr: there is a front).
  const Point* best() const { return best_ ? &points_[*best_] : nullptr; }
  // How far it falls short of the best: the relative loss in the first entry that is worse beyond
  // kObjectiveTolerance, in the last entry any; 0 = as good; 1 where it is not feasible.
  double shortfall(const Outcome& outcome) const;
  // With `pareto`: the share of the true front's hypervolume (above the worst feasible value of each entry) that these
  // do not cover.
  double shortfall(const std::vector<std::vector<double>>& launched) const;
  // To be called after the last add and before any of the three above. Points that nobody launched because a recorded
  // failure dooms them (frontier.h) are taken as out of memory: that is what recording passes over.
  void finish();

 private:
  void add_doomed();

  Space space_;
  std::vector<bool> noisy_;
  bool pareto_;
  std::vector<Point> points_;
  std::vector<std::vector<Outcome>> launches_;  // of each point
  std::unordered_map<std::string, size_t> index_;
  std::optional<size_t> best_;
  std::vector<double> floor_;
  double whole_ = 0;  // hypervolume of the true front
};

// Within so much of the best counts as found.
inline constexpr double kNear = 0.02;

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

}  // namespace search
