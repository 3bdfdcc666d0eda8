#include "search/strategy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "search/grid.h"
#include "search/model_based.h"
#include "search/random.h"
#include "search/tpe.h"
#include "search/two_phase.h"

namespace search {
namespace {

constexpr StrategyInfo kStrategies[] = {
    {"two-phase", "the default, each axis by itself, then steps around the best point", make_two_phase},
    {"model-based", "the default, then what a model of all launches promises most of", make_model_based},
    {"tpe", "a textbook tree-structured Parzen estimator, to compare with", make_tpe},
    {"random", "the default, then points drawn evenly", make_random},
    {"grid", "the default, then every point in the file's order", make_grid},
};

}  // namespace

bool better(const Outcome& a, const Outcome& b, double tolerance) {
  int rank_a = a.feasible ? 2 : a.ok ? 1 : 0;
  int rank_b = b.feasible ? 2 : b.ok ? 1 : 0;
  if (rank_a != rank_b) {
    return rank_a > rank_b;
  }
  if (rank_a < 2) {
    return false;  // what may not be used has no order
  }
  size_t entries = std::min(a.objective.size(), b.objective.size());
  for (size_t i = 0; i < entries; ++i) {
    double x = a.objective[i];
    double y = b.objective[i];
    double scale = std::max(std::fabs(x), std::fabs(y));
    bool last = i + 1 == entries;
    if (last || std::fabs(x - y) > tolerance * scale) {
      return x > y;
    }
  }
  return false;
}

std::optional<size_t> best_of(std::span<const Outcome* const> outcomes, double tolerance) {
  std::vector<size_t> left;
  size_t entries = std::numeric_limits<size_t>::max();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    if (outcomes[i]->feasible) {
      left.push_back(i);
      entries = std::min(entries, outcomes[i]->objective.size());
    }
  }
  if (left.empty()) {
    return std::nullopt;
  }
  for (size_t entry = 0; entry < entries; ++entry) {
    auto value = [&](size_t i) { return outcomes[i]->objective[entry]; };
    double peak = -std::numeric_limits<double>::infinity();
    for (size_t i : left) {
      peak = std::max(peak, value(i));  // a NaN is never the peak
    }
    double allowed = entry + 1 == entries ? 0 : tolerance;
    std::vector<size_t> near;
    for (size_t i : left) {
      if (value(i) == peak || peak - value(i) <= allowed * std::max(std::fabs(peak), std::fabs(value(i)))) {
        near.push_back(i);
      }
    }
    left = near.empty() ? left : near;
  }
  return left.front();
}

std::span<const StrategyInfo> strategies() {
  return kStrategies;
}

const StrategyInfo* find_strategy(std::string_view name) {
  for (const StrategyInfo& info : kStrategies) {
    if (info.name == name) {
      return &info;
    }
  }
  return nullptr;
}

}  // namespace search
