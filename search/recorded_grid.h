#pragma once
// A grid that was measured once: a space with the outcome of every configuration that was launched, repeats pooled.

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "search/machine_level.h"
#include "search/strategy.h"

namespace search {

// Within so much of the best counts as found.
inline constexpr double kNear = 0.02;

class RecordedGrid {
 public:
  // `noisy`: which entries of the objective are speeds, on which noise and drift act; `pareto`: entries of equal rank.
  RecordedGrid(Space space, std::vector<bool> noisy, bool pareto = false);

  // One launch, in the order they ran; repeats are pooled (history.h). A forecast counts as out of memory where nothing was
  // launched. `round`: launches of one round ran one after the other; of other rounds hours may lie between.
  void add(const Config& config, const Outcome& outcome, int round = 0);

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
    // Relative, launch to launch, of the entry that scatters most, pooled over repeats; 0 = none. `swing`: by how much the
    // machine's speed moved meanwhile (machine_level.h), which is no part of it.
    double scatter = 0, swing = 0;
    double uncertain = 0;  // one standard error of a point's mean, by that scatter
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
  // To be called once, after the last add and before any of the three above. What the machine's speed did meanwhile is taken
  // out of the noisy entries (machine_level.h). Points that nobody launched because a recorded failure dooms them (frontier.h) are
  // taken as out of memory: that is what recording passes over.
  void finish();

 private:
  void take_out_levels();
  void settle(size_t at);  // a point's outcome from its launches
  void add_doomed();

  Space space_;
  std::vector<bool> noisy_;
  bool pareto_;
  std::vector<Point> points_;
  std::vector<std::vector<Outcome>> launches_;  // of each point
  struct Launched {
    size_t point = 0, launch = 0;
    int round = 0;
  };
  std::vector<Launched> order_;        // of all launches, forecasts apart
  std::vector<MachineLevels> levels_;  // of each entry; empty where it has none
  std::unordered_map<std::string, size_t> index_;
  std::optional<size_t> best_;
  std::vector<double> floor_;
  double whole_ = 0;  // hypervolume of the true front
};

}  // namespace search
