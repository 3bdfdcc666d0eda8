#pragma once
// A grid that was measured once: a space with the outcome of every configuration that was launched, repeats pooled.

#include <limits>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "search/machine_level.h"
#include "search/strategy.h"

namespace search {

// Within so much of the best counts as found.
inline constexpr double kNear = 0.02;
// Of a grid of which less was recorded, results are not to be believed.
inline constexpr double kWhole = 0.9;

class RecordedGrid {
 public:
  // `noisy`: which entries of the objective are speeds, on which noise and drift act; `pareto`: entries of equal rank.
  RecordedGrid(Space space, std::vector<bool> noisy, bool pareto = false);

  // One launch, in the order they ran; repeats are pooled (history.h). A forecast counts as out of memory where nothing was
  // launched. `round`: launches of one round ran one after the other; of other rounds hours may lie between.
  void add(const Config& config, const Outcome& outcome, int round = 0);

  // By how much (a logarithm) the speed of a launch may fall until a limit breaks; negative: by how much it would have to
  // rise. Of limits by themselves, and of those relative to the default. No limit on a speed: any.
  struct Margin {
    double alone = std::numeric_limits<double>::infinity();
    double to_default = std::numeric_limits<double>::infinity();
  };
  struct Point {
    Config config;  // canonical
    Outcome outcome;
    int launches = 0;       // measured ones
    bool inferred = false;  // nobody launched it
    Margin margin = {};     // of one with an objective
  };
  const std::vector<Point>& points() const { return points_; }
  // nullptr: not recorded.
  const Outcome* find(const Config& canonical) const;
  const Point* point(const Config& canonical) const;
  // After finish(). The truth stays what was recorded: a feasible point's margins are at least 0, and one that is not
  // feasible has a margin below 0, or is so whatever its speed.
  void set_margin(const Config& canonical, const Margin& margin);
  // After finish(): how fast the machine was (a logarithm) at the i-th launch that was added, by the last noisy entry.
  double level(size_t launch) const;
  const Space& space() const { return space_; }
  bool pareto() const { return pareto_; }
  bool noisy(size_t entry) const { return entry < noisy_.size() && noisy_[entry]; }

  struct Census {
    // Of `launched` points some are out of memory and some failed; `inferred` ones nobody launched, since a failure dooms
    // them. `once`: those that ran, and were launched a single time.
    size_t points = 0, launched = 0, inferred = 0, feasible = 0, out_of_memory = 0, failed = 0, once = 0;
    // Within kNear of the best; with `pareto` within kNear in every entry of one and the same point of the front, of which
    // there are `front`.
    size_t near_best = 0, front = 0;
    // Points that the constraints allow and nobody recorded; not `counted`: too many to walk, at most so many.
    double missing = 0;
    bool counted = true;
    double recorded() const { return static_cast<double>(points) / (static_cast<double>(points) + missing); }
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
  bool near(const Outcome& outcome) const;

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
  std::vector<std::vector<double>> front_;  // with `pareto`
  std::vector<double> floor_;
  double whole_ = 0;  // hypervolume of the true front
};

}  // namespace search
