#include "search/sweep.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

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

// The values that both axes have, the one with the largest demand first; values of unknown demand are left
// out, since they have no neighbours.
std::vector<Value> shared_values(const Space& space, size_t first, size_t second) {
  std::vector<std::pair<double, Value>> found;
  for (const Value& value : space.axes[first].values) {
    auto demand = memory_demand(space.axes[first].name, value);
    if (demand && space.axes[second].index_of(value) < space.axes[second].values.size()) {
      found.emplace_back(*demand, value);
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Value> values;
  for (auto& entry : found) {
    values.push_back(std::move(entry.second));
  }
  return values;
}

}  // namespace

Singles::Singles(const Space& space) {
  const Config base = space.default_config();
  for (size_t axis = 0; axis < space.axes.size(); ++axis) {
    std::vector<std::optional<Config>> row;
    for (size_t value = 0; value < space.axes[axis].values.size(); ++value) {
      bool usual = equal(space.axes[axis].values[value], base[axis]);
      row.push_back(usual ? std::optional<Config>(base) : with_change(space, base, axis, value));
    }
    configs_.push_back(std::move(row));
  }
}

bool differ_in_place(const Space& space, const std::vector<std::string>& in_place, const Config& a,
                     const Config& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(a[i], b[i]) &&
        std::find(in_place.begin(), in_place.end(), space.axes[i].name) == in_place.end()) {
      return false;
    }
  }
  return true;
}

std::vector<SweepPoint> plan_sweep(const Space& space, const Singles& singles, int max_points,
                                   const std::vector<std::string>& in_place) {
  const Config base = space.default_config();
  std::vector<AxisPlan> plans(space.axes.size());
  for (size_t axis = 0; axis < plans.size(); ++axis) {
    plans[axis].axis = axis;
  }
  std::stable_sort(plans.begin(), plans.end(), [&](const AxisPlan& a, const AxisPlan& b) {
    return importance_rank(space.axes[a.axis].name) < importance_rank(space.axes[b.axis].name);
  });
  std::unordered_set<std::string> seen = {key_of(base)};
  size_t total = 0;
  for (AxisPlan& plan : plans) {
    for (size_t value = 0; value < space.axes[plan.axis].values.size(); ++value) {
      const auto& config = singles.at(plan.axis, value);
      if (config && seen.insert(key_of(*config)).second) {
        plan.candidates.push_back(value);
      }
    }
    plan.count = std::min(plan.candidates.size(), space.axes[plan.axis].sweep_values);
    total += plan.count;
  }
  for (; total > static_cast<size_t>(std::max(max_points, 0)); --total) {
    drop_one(space, plans);
  }
  std::vector<SweepPoint> points;
  for (const AxisPlan& plan : plans) {
    if (plan.count > 0) {
      for (size_t value : spread(space.axes[plan.axis], plan.candidates, plan.count)) {
        points.push_back({plan.axis, value, *singles.at(plan.axis, value)});
      }
    }
  }
  std::stable_partition(points.begin(), points.end(), [&](const SweepPoint& point) {
    return differ_in_place(space, in_place, point.config, base);
  });
  return points;
}

std::vector<Pair> plan_pairs(const Space& space) {
  const Config base = space.default_config();
  std::vector<Pair> pairs;
  for (size_t first = 0; first < space.axes.size(); ++first) {
    size_t second = space.index_of(partner_of(space.axes[first].name));
    if (second >= space.axes.size() || second < first) {
      continue;
    }
    // The key side (the more sensitive one) gets the richer value of a mixed pair.
    bool first_is_richer =
        importance_rank(space.axes[first].name) <= importance_rank(space.axes[second].name);
    size_t rich = first_is_richer ? first : second, lean = first_is_richer ? second : first;
    auto add = [&](const Value& richer, const Value& leaner) {
      if (equal(richer, base[rich]) || equal(leaner, base[lean])) {
        return false;  // a change of one axis: the sweep's
      }
      const Change changes[] = {{rich, space.axes[rich].index_of(richer)},
                                {lean, space.axes[lean].index_of(leaner)}};
      if (auto config = with_changes(space, base, changes)) {
        pairs.push_back({changes[0], changes[1], std::move(*config)});
      }
      return true;
    };
    std::vector<Value> values = shared_values(space, first, second);
    std::vector<Value> last;
    for (size_t i = 0; i < values.size(); ++i) {
      if (i > 0 && add(values[i - 1], values[i])) {
        add(values[i], values[i]);
      } else {
        last.push_back(values[i]);
      }
    }
    for (const Value& value : last) {
      add(value, value);
    }
  }
  return pairs;
}

Difference difference(const Outcome& a, const Outcome& b) {
  if (a.feasible != b.feasible) {
    return {a.feasible ? 1.0 : -1.0, 0};
  }
  return a.feasible ? measured_difference(a, b) : Difference{};
}

Difference measured_difference(const Outcome& a, const Outcome& b) {
  size_t entries = std::min(a.objective.size(), b.objective.size());
  for (size_t i = 0; i < entries; ++i) {
    double scale = std::max(std::fabs(a.objective[i]), std::fabs(b.objective[i]));
    double threshold = kObjectiveTolerance;
    if (i + 1 == entries) {
      threshold = std::max(threshold, std::hypot(a.noise, b.noise));
    }
    double relative = scale > 0 ? (a.objective[i] - b.objective[i]) / scale : 0;
    if (std::fabs(relative) > threshold) {
      return {relative, i};
    }
  }
  return {};
}

double gain(const Outcome& a, const Outcome& b) {
  return difference(a, b).relative;
}

const Outcome* alone(const History& history, const Singles& singles, size_t axis, size_t value) {
  const auto& config = singles.at(axis, value);
  return config ? history.find(*config) : nullptr;
}

Outcome reference(const History& history, const Singles& singles) {
  const Outcome* usual = history.find(history.default_config());
  if (usual == nullptr) {
    return {};
  }
  std::vector<Outcome> alike = {*usual};
  for (size_t axis = 0; usual->feasible && axis < history.space().axes.size(); ++axis) {
    for (size_t value = 0; value < history.space().axes[axis].values.size(); ++value) {
      const Outcome* outcome = alone(history, singles, axis, value);
      if (outcome == nullptr || outcome == usual || !outcome->feasible) {
        continue;
      }
      Outcome wide = *outcome;  // three times the variance and one: twice the combined noise of equal ones
      wide.noise = std::sqrt(4 * outcome->noise * outcome->noise + 3 * usual->noise * usual->noise);
      if (measured_difference(wide, *usual).relative == 0 && usual->noise > 0 && outcome->noise > 0) {
        alike.push_back(*outcome);
      }
    }
  }
  Outcome steadied = pooled(alike);
  steadied.out_of_memory = usual->out_of_memory;
  return steadied;
}

double effect(const History& history, const Singles& singles, const Outcome& usual, size_t axis) {
  double largest = 0;
  for (size_t value = 0; usual.ok && value < history.space().axes[axis].values.size(); ++value) {
    const Outcome* outcome = alone(history, singles, axis, value);
    if (outcome != nullptr && outcome != history.find(history.default_config())) {
      largest = std::max(largest, std::min(1.0, std::fabs(gain(*outcome, usual))));
    }
  }
  return largest;
}

}  // namespace search
