#include "search/sweep.h"

#include <algorithm>
#include <cmath>

#include "search/axis_facts.h"

namespace search {
namespace {

struct AxisPlan {
  size_t axis = 0;
  std::vector<size_t> candidates;  // value indices worth a trial
  size_t count = 0;                // how many of them to try
};

std::vector<size_t> spread(const Axis& axis, const std::vector<size_t>& candidates, size_t count) {
  if (count >= candidates.size()) {
    return candidates;
  }
  if (count == 1) {
    // The far end shows most; for names the last, since files list types from large to small.
    bool first_is_farther =
        axis.ordered && axis.default_index > candidates.front() &&
        (candidates.back() < axis.default_index ||
         axis.default_index - candidates.front() > candidates.back() - axis.default_index);
    return {first_is_farther ? candidates.front() : candidates.back()};
  }
  std::vector<size_t> chosen;
  for (size_t i = 0; i < count; ++i) {
    double position =
        static_cast<double>(i) * static_cast<double>(candidates.size() - 1) / static_cast<double>(count - 1);
    chosen.push_back(candidates[static_cast<size_t>(std::lround(position))]);
  }
  return chosen;
}

// What the last value of a plan is worth: little on an axis that hardly ever matters or that has others.
double worth_of_last(const Space& space, const AxisPlan& plan) {
  double importance = 1 / (1 + 0.25 * importance_rank(space.axes[plan.axis].name));
  return importance / static_cast<double>(plan.count);
}

// Takes the value that is worth least; `plans` is in order of importance.
void drop_one(const Space& space, std::vector<AxisPlan>& plans) {
  AxisPlan* least = nullptr;
  for (AxisPlan& plan : plans) {
    if (plan.count > 0 && (least == nullptr || worth_of_last(space, plan) <= worth_of_last(space, *least))) {
      least = &plan;
    }
  }
  AR_CHECK(least != nullptr, "nothing left to drop");
  --least->count;
}

}  // namespace

Config changed(const Space& space, const Config& from, size_t axis, size_t value) {
  Config config = from;
  config[axis] = space.axes[axis].values[value];
  return space.canonical(config);
}

std::vector<SweepPoint> plan_sweep(const Space& space, int max_points) {
  const Config base = space.default_config();
  std::vector<AxisPlan> plans;
  size_t total = 0;
  for (size_t axis = 0; axis < space.axes.size(); ++axis) {
    AxisPlan plan{axis, {}, 0};
    for (size_t value = 0; value < space.axes[axis].values.size(); ++value) {
      Config config = changed(space, base, axis, value);
      if (!equal(config[axis], base[axis]) && space.violated(config).empty()) {
        plan.candidates.push_back(value);
      }
    }
    plan.count = std::min(plan.candidates.size(), space.axes[axis].sweep_values);
    total += plan.count;
    plans.push_back(std::move(plan));
  }
  std::stable_sort(plans.begin(), plans.end(), [&](const AxisPlan& a, const AxisPlan& b) {
    return importance_rank(space.axes[a.axis].name) < importance_rank(space.axes[b.axis].name);
  });
  for (; total > static_cast<size_t>(std::max(max_points, 0)); --total) {
    drop_one(space, plans);
  }
  std::vector<SweepPoint> points;
  for (const AxisPlan& plan : plans) {
    if (plan.count > 0) {
      for (size_t value : spread(space.axes[plan.axis], plan.candidates, plan.count)) {
        points.push_back({plan.axis, value});
      }
    }
  }
  return points;
}

double gain(const Outcome& a, const Outcome& b) {
  if (a.feasible != b.feasible) {
    return a.feasible ? 1 : -1;
  }
  if (!a.feasible) {
    return 0;
  }
  size_t entries = std::min(a.objective.size(), b.objective.size());
  for (size_t i = 0; i < entries; ++i) {
    double scale = std::max(std::fabs(a.objective[i]), std::fabs(b.objective[i]));
    double threshold = kObjectiveTolerance;
    if (i + 1 == entries) {
      threshold = std::max(threshold, a.noise + b.noise);
    }
    double difference = scale > 0 ? (a.objective[i] - b.objective[i]) / scale : 0;
    if (std::fabs(difference) > threshold) {
      return difference;
    }
  }
  return 0;
}

const Outcome* alone(const History& history, size_t axis, size_t value) {
  return history.find(changed(history.space(), history.default_config(), axis, value));
}

double effect(const History& history, size_t axis) {
  const Outcome* base = history.find(history.default_config());
  double largest = 0;
  for (size_t value = 0; base != nullptr && value < history.space().axes[axis].values.size(); ++value) {
    const Outcome* outcome = alone(history, axis, value);
    if (outcome != nullptr && outcome != base) {
      largest = std::max(largest, std::min(1.0, std::fabs(gain(*outcome, *base))));
    }
  }
  return largest;
}

}  // namespace search
