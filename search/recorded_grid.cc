#include "search/recorded_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "search/grid.h"
#include "search/history.h"
#include "search/pareto.h"

namespace search {
namespace {

constexpr double kMaxWalk = 1e6;  // points of a space that are counted one by one

}  // namespace

RecordedGrid::RecordedGrid(Space space, std::vector<bool> noisy, bool pareto)
    : space_(std::move(space)), noisy_(std::move(noisy)), pareto_(pareto) {}

void RecordedGrid::add(const Config& told, const Outcome& outcome, int round) {
  Config config = space_.canonical(told);
  auto [at, fresh] = index_.emplace(key_of(config), points_.size());
  if (fresh) {
    points_.push_back({std::move(config), outcome});
    launches_.push_back({outcome});
  } else {
    auto& launches = launches_[at->second];
    if (outcome.predicted) {
      return;
    }
    if (launches.front().predicted) {
      launches.clear();
    }
    launches.push_back(outcome);
  }
  if (!outcome.predicted) {
    order_.push_back({at->second, launches_[at->second].size() - 1, round});
  }
  settle(at->second);
}

void RecordedGrid::settle(size_t at) {
  Point& point = points_[at];
  point.outcome = pooled(launches_[at]);
  point.outcome.predicted = false;
  point.outcome.noise = 0;
  point.inferred = launches_[at].front().predicted;
  point.launches = static_cast<int>(
      std::count_if(launches_[at].begin(), launches_[at].end(), [](const Outcome& o) { return o.ok; }));
}

void RecordedGrid::take_out_levels() {
  levels_.clear();
  for (size_t entry = 0; entry < noisy_.size(); ++entry) {
    levels_.emplace_back();
    std::vector<TimedLaunch> launches;
    for (const Launched& one : order_) {
      const auto& objective = launches_[one.point][one.launch].objective;
      const double value = entry < objective.size() ? std::fabs(objective[entry]) : 0;
      const bool usable = value > 0 && std::isfinite(value);
      launches.push_back({one.point, one.round, usable ? std::log(value) : 0, usable});
    }
    if (!noisy_[entry]) {
      continue;
    }
    levels_.back() = machine_levels(launches);
    for (size_t i = 0; i < order_.size(); ++i) {
      if (launches[i].usable) {
        launches_[order_[i].point][order_[i].launch].objective[entry] /= std::exp(levels_.back().of[i]);
      }
    }
  }
  for (size_t at = 0; at < points_.size(); ++at) {
    settle(at);
  }
}

const Outcome* RecordedGrid::find(const Config& canonical) const {
  auto at = index_.find(key_of(canonical));
  return at == index_.end() ? nullptr : &points_[at->second].outcome;
}

const RecordedGrid::Point* RecordedGrid::point(const Config& canonical) const {
  auto at = index_.find(key_of(canonical));
  return at == index_.end() ? nullptr : &points_[at->second];
}

void RecordedGrid::set_margin(const Config& canonical, const Margin& margin) {
  auto at = index_.find(key_of(canonical));
  AR_CHECK(at != index_.end(), "the margin of a point that is not recorded");
  Point& point = points_[at->second];
  point.margin = margin;
  if (point.outcome.feasible) {
    point.margin.alone = std::max(margin.alone, 0.0);
    point.margin.to_default = std::max(margin.to_default, 0.0);
  } else if (margin.alone >= 0 && margin.to_default >= 0) {
    point.margin.alone = -std::numeric_limits<double>::infinity();
  }
}

double RecordedGrid::level(size_t launch) const {
  for (size_t entry = levels_.size(); entry > 0; --entry) {
    if (noisy_[entry - 1]) {
      return launch < levels_[entry - 1].of.size() ? levels_[entry - 1].of[launch] : 0;
    }
  }
  return 0;
}

void RecordedGrid::add_doomed() {
  Frontier frontier;
  for (const Point& point : points_) {
    if (point.outcome.out_of_memory) {
      frontier.failed(space_, point.config);
    } else if (point.outcome.ok) {
      frontier.ran(space_, point.config);
    }
  }
  for (uint64_t i = 0; space_.grid_size() <= kMaxWalk && i < static_cast<uint64_t>(space_.grid_size()); ++i) {
    const Config config = space_.canonical(grid_point(space_, i));
    if (frontier.dooms(space_, config) && find(config) == nullptr && space_.violated(config).empty()) {
      Outcome forecast;
      forecast.out_of_memory = forecast.predicted = true;
      add(config, forecast);
    }
  }
}

void RecordedGrid::finish() {
  take_out_levels();
  add_doomed();
  std::vector<const Outcome*> outcomes;
  std::vector<std::vector<double>> feasible;
  for (Point& point : points_) {
    point.outcome.feasible = point.outcome.feasible && !point.outcome.objective.empty();
    outcomes.push_back(&point.outcome);
    if (point.outcome.feasible) {
      feasible.push_back(point.outcome.objective);
    }
  }
  best_ = pareto_ ? std::nullopt : best_of(outcomes, kObjectiveTolerance);
  floor_.clear();
  for (const auto& values : feasible) {
    floor_.resize(values.size(), std::numeric_limits<double>::infinity());
    for (size_t i = 0; i < values.size(); ++i) {
      floor_[i] = std::min(floor_[i], values[i]);
    }
  }
  whole_ = pareto_ ? hypervolume(feasible, floor_) : 0;
  front_.clear();
  for (size_t at : pareto_ ? front_of(feasible) : std::vector<size_t>()) {
    front_.push_back(feasible[at]);
  }
  for (Point& point : points_) {
    set_margin(point.config, {});  // none known: feasible or not, whatever its speed
  }
}

double RecordedGrid::shortfall(const Outcome& outcome) const {
  const Point* top = best();
  if (top == nullptr || !outcome.feasible) {
    return 1;
  }
  const auto& peak = top->outcome.objective;
  const size_t entries = std::min(peak.size(), outcome.objective.size());
  for (size_t i = 0; i < entries; ++i) {
    const double scale = std::fabs(peak[i]);
    const double loss = scale > 0 ? (peak[i] - outcome.objective[i]) / scale : peak[i] - outcome.objective[i];
    if (i + 1 == entries || loss > kObjectiveTolerance) {
      return std::clamp(loss, 0.0, 1.0);
    }
  }
  return 1;
}

double RecordedGrid::shortfall(const std::vector<std::vector<double>>& launched) const {
  return whole_ > 0 ? 1 - hypervolume(launched, floor_) / whole_ : 1;
}

bool RecordedGrid::near(const Outcome& outcome) const {
  if (!pareto_) {
    return best_ && shortfall(outcome) <= kNear;
  }
  return outcome.feasible && std::any_of(front_.begin(), front_.end(), [&](const std::vector<double>& peak) {
           for (size_t i = 0; i < std::min(peak.size(), outcome.objective.size()); ++i) {
             if (outcome.objective[i] < peak[i] - kNear * std::fabs(peak[i])) {
               return false;
             }
           }
           return true;
         });
}

RecordedGrid::Census RecordedGrid::census() const {
  Census census;
  census.front = front_.size();
  std::vector<double> squares;  // by entry
  int freedom = 0;
  double launched = 0, measured = 0;  // launches, and points they were of
  for (size_t at = 0; at < points_.size(); ++at) {
    const Outcome& outcome = points_[at].outcome;
    ++census.points;
    if (points_[at].inferred) {
      ++census.inferred;
      continue;
    }
    ++census.launched;
    census.feasible += outcome.feasible ? 1 : 0;
    census.out_of_memory += outcome.out_of_memory ? 1 : 0;
    census.failed += outcome.ok || outcome.out_of_memory ? 0 : 1;
    census.once += points_[at].launches == 1 ? 1 : 0;
    census.near_best += near(outcome) ? 1 : 0;
    for (const Outcome& launch : launches_[at]) {
      const size_t entries = launch.ok && points_[at].launches > 1
                                 ? std::min(launch.objective.size(), outcome.objective.size())
                                 : 0;
      squares.resize(std::max(squares.size(), entries));
      for (size_t i = 0; i < entries; ++i) {
        squares[i] +=
            outcome.objective[i] != 0 ? std::pow(launch.objective[i] / outcome.objective[i] - 1, 2) : 0;
      }
    }
    freedom += std::max(points_[at].launches - 1, 0);
    launched += points_[at].launches;
    measured += points_[at].launches > 0 ? 1 : 0;
  }
  for (size_t i = 0; i < squares.size(); ++i) {
    const double taken = i < levels_.size() ? levels_[i].freedom : 0;
    census.scatter =
        std::max(census.scatter, freedom > taken ? std::sqrt(squares[i] / (freedom - taken)) : 0.0);
    census.swing = std::max(census.swing, i < levels_.size() ? levels_[i].swing : 0);
  }
  census.uncertain = measured > 0 ? census.scatter / std::sqrt(launched / measured) : 0;
  census.counted = space_.grid_size() <= kMaxWalk;
  census.missing = std::max(space_.grid_size() - static_cast<double>(census.points), 0.0);
  if (census.counted) {
    std::unordered_set<std::string> missing;
    for (uint64_t i = 0; i < static_cast<uint64_t>(space_.grid_size()); ++i) {
      const Config config = space_.canonical(grid_point(space_, i));
      if (find(config) == nullptr && space_.violated(config).empty()) {
        missing.insert(key_of(config));
      }
    }
    census.missing = static_cast<double>(missing.size());
  }
  return census;
}

}  // namespace search
