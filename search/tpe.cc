#include "search/tpe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "search/candidates.h"
#include "search/history_strategy.h"
#include "search/pareto.h"
#include "search/random.h"
#include "search/rng.h"

namespace search {
namespace {

constexpr int kStartup = 10, kDraws = 24, kAttempts = 1000;
constexpr double kGoodShare = 0.1;
constexpr size_t kMostGood = 25;
constexpr double kPriorWeight = 1;
constexpr double kNeighbour = 0.3;  // of a count, given to the values beside it on an ordered axis

// The share of each value, per axis, of some launches, smoothed.
using Density = std::vector<std::vector<double>>;

Density density_of(const Space& space, const std::vector<Levels>& points) {
  Density density;
  for (size_t axis = 0; axis < space.axes.size(); ++axis) {
    const size_t n = space.axes[axis].values.size();
    std::vector<double> share(n, kPriorWeight / static_cast<double>(n));
    for (const Levels& point : points) {
      const size_t at = point[axis];
      share[at] += 1;
      if (space.axes[axis].ordered) {
        for (size_t beside : {at > 0 ? at - 1 : n, at + 1}) {
          if (beside < n) {
            share[beside] += kNeighbour;
          }
        }
      }
    }
    const double sum = std::accumulate(share.begin(), share.end(), 0.0);
    for (double& value : share) {
      value /= sum;
    }
    density.push_back(std::move(share));
  }
  return density;
}

class Tpe final : public HistoryStrategy {
 public:
  Tpe(const Space& space, uint64_t seed, const Limits& limits)
      : HistoryStrategy(space, limits), seed_(seed), random_(make_random(space, seed, limits)) {}

  void tell(const Config& config, const Outcome& outcome) override {
    HistoryStrategy::tell(config, outcome);
    random_->tell(config, outcome);
  }
  void know(const Config& config, const Outcome& outcome) override {
    HistoryStrategy::know(config, outcome);
    random_->know(config, outcome);
  }

 private:
  // Launches, the best first: by entries of the objective in turn, or with `pareto` by how many beat each.
  std::vector<size_t> order() const {
    const auto& entries = history_.entries();
    std::vector<size_t> order(entries.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::vector<int> beaten(entries.size(), 0);
    for (size_t i = 0; limits_.pareto && i < entries.size(); ++i) {
      for (const auto& other : entries) {
        const auto& mine = entries[i].outcome;
        beaten[i] += mine.feasible && other.outcome.feasible &&
                             mine.objective.size() == other.outcome.objective.size() &&
                             dominates(other.outcome.objective, mine.objective)
                         ? 1
                         : 0;
      }
    }
    auto rank = [&](size_t i) { return entries[i].outcome.feasible ? 0 : entries[i].outcome.ok ? 1 : 2; };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      if (rank(a) != rank(b) || rank(a) == 2) {
        return rank(a) < rank(b);
      }
      return limits_.pareto ? beaten[a] < beaten[b]
                            : entries[a].outcome.objective > entries[b].outcome.objective;
    });
    return order;
  }

  std::optional<Proposal> compute() override {
    if (history_.launched() <= kStartup) {
      return random_->ask();
    }
    const Space& space = history_.space();
    std::vector<Levels> good, rest;
    const auto n = static_cast<size_t>(history_.launched());
    const size_t share =
        std::min(kMostGood, static_cast<size_t>(std::ceil(kGoodShare * static_cast<double>(n))));
    for (size_t i : order()) {
      (good.size() < share ? good : rest).push_back(levels_of(space, history_.entries()[i].config));
    }
    const Density likely = density_of(space, good), usual = density_of(space, rest);
    Rng rng(seed_, 1000 + n);
    std::optional<Config> best;
    double most = 0;
    int draws = 0;
    for (int attempt = 0; attempt < kAttempts && draws < kDraws; ++attempt) {
      Config config;
      for (size_t axis = 0; axis < space.axes.size(); ++axis) {
        double left = rng.uniform();
        size_t value = 0;
        while (value + 1 < likely[axis].size() && left >= likely[axis][value]) {
          left -= likely[axis][value++];
        }
        config.push_back(space.axes[axis].values[value]);
      }
      config = space.canonical(config);
      if (!history_.worth_trying(config)) {
        continue;
      }
      ++draws;
      double ratio = 0;
      const Levels levels = levels_of(space, config);
      for (size_t axis = 0; axis < levels.size(); ++axis) {
        ratio += std::log(likely[axis][levels[axis]] / usual[axis][levels[axis]]);
      }
      if (!best || ratio > most) {
        best = std::move(config);
        most = ratio;
      }
    }
    return best ? Proposal{*best, "model", "likely among the good launches, unlikely among the rest"}
                : random_->ask();
  }

  uint64_t seed_;
  std::unique_ptr<Strategy> random_;  // the first points, and what is left when draws find nothing new
};

}  // namespace

std::unique_ptr<Strategy> make_tpe(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<Tpe>(space, seed, limits);
}

}  // namespace search
