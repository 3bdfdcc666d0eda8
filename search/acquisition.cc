#include "search/acquisition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

#include "search/axis_facts.h"
#include "search/pareto.h"
#include "search/surrogate.h"

namespace search {
namespace {

constexpr double kLeastNoise = 0.003;     // of a model's error, in logarithms, beside what a launch scatters
constexpr double kUnknownNoise = 0.01;    // of a launch whose noise nobody knows
constexpr double kVerdictNoise = 0.15;    // of feasible (1) or not (0)
constexpr double kLeastFeasible = 0.002;  // no candidate is ruled out for good
constexpr int kVolumeLevels = 24;
constexpr double kEarlierGain = 0.2;   // a gain in an earlier entry, beside its size
constexpr size_t kMostModelled = 150;  // launches
constexpr double kOptimism = 1.0;      // sigmas, where volumes are compared

double density(double z) {
  return std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi);
}
double below(double z) {
  return std::erfc(-z / std::numbers::sqrt2) / 2;
}
// E[max(y - threshold, 0)] of a normal y.
double expected_excess(const Surrogate::Prediction& y, double threshold) {
  const double z = (y.mean - threshold) / y.sigma;
  return y.sigma * (density(z) + z * below(z));
}

// One entry of the objective over all measured launches: in logarithms where every value is positive, else relative to
// their usual size.
class Entry {
 public:
  Entry(const Space& space, const std::vector<Levels>& points, const std::vector<const Outcome*>& outcomes,
        size_t at, bool noisy)
      : model_(space) {
    for (const Outcome* outcome : outcomes) {
      const double value = outcome->objective[at];
      logarithmic_ = logarithmic_ && value > 0;
      scale_ += std::fabs(value) / static_cast<double>(outcomes.size());
    }
    scale_ = scale_ > 0 ? scale_ : 1;
    std::vector<double> noise;
    for (const Outcome* outcome : outcomes) {
      values_.push_back(scaled(outcome->objective[at]));
      const double sigma = outcome->noise > 0 ? outcome->noise : kUnknownNoise;
      noise.push_back(noisy ? std::hypot(sigma, kLeastNoise) : kLeastNoise);
    }
    model_.fit(points, values_, noise);
    smooth_ = model_.predict(points);
  }

  double scaled(double value) const { return logarithmic_ ? std::log(value) : value / scale_; }
  // Of launch i: as measured, and as the model sees it.
  double value(size_t i) const { return values_[i]; }
  double smooth(size_t i) const { return smooth_[i].mean; }
  std::vector<Surrogate::Prediction> predict(std::span<const Levels> at) const { return model_.predict(at); }

 private:
  Surrogate model_;
  bool logarithmic_ = true;
  double scale_ = 0;
  std::vector<double> values_;
  std::vector<Surrogate::Prediction> smooth_;
};

// What is modelled of a long study: the best, the latest, and an even sample of the rest, in their order. (A model's cost
// grows with the cube of its launches.)
std::vector<const History::Entry*> modelled(const History& history, bool pareto) {
  const auto& entries = history.entries();
  std::vector<const History::Entry*> kept;
  if (entries.size() <= kMostModelled) {
    for (const History::Entry& entry : entries) {
      kept.push_back(&entry);
    }
    return kept;
  }
  std::vector<size_t> order;
  std::vector<int> beaten(entries.size(), 0);
  for (size_t i = 0; i < entries.size(); ++i) {
    const Outcome& mine = entries[i].outcome;
    if (!mine.feasible) {
      continue;
    }
    order.push_back(i);
    for (size_t j = 0; pareto && j < entries.size(); ++j) {
      const Outcome& other = entries[j].outcome;
      beaten[i] += other.feasible && other.objective.size() == mine.objective.size() &&
                           dominates(other.objective, mine.objective)
                       ? 1
                       : 0;
    }
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return pareto ? beaten[a] < beaten[b] : entries[a].outcome.objective > entries[b].outcome.objective;
  });
  std::vector<bool> chosen(entries.size(), false);
  for (size_t i = 0; i < std::min(order.size(), kMostModelled / 3); ++i) {
    chosen[order[i]] = true;
  }
  for (size_t i = entries.size() - kMostModelled / 3; i < entries.size(); ++i) {
    chosen[i] = true;
  }
  std::vector<size_t> rest;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!chosen[i]) {
      rest.push_back(i);
    }
  }
  const size_t room = kMostModelled - (entries.size() - rest.size());
  for (size_t i = 0; i < std::min(room, rest.size()); ++i) {
    chosen[rest[i * rest.size() / std::min(room, rest.size())]] = true;
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    if (chosen[i]) {
      kept.push_back(&entries[i]);
    }
  }
  return kept;
}

// The launches that were measured, and a model of each entry of the objective.
struct Measured {
  std::vector<Levels> points;
  std::vector<const Outcome*> outcomes;
  std::vector<size_t> feasible;  // indices of those that are
  std::vector<Entry> entries;
};

Measured measured_of(const History& history, std::span<const History::Entry* const> launches, bool pareto) {
  Measured all;
  size_t width = std::numeric_limits<size_t>::max();
  for (const History::Entry* entry : launches) {
    const Outcome& outcome = entry->outcome;
    const bool finite = std::all_of(outcome.objective.begin(), outcome.objective.end(),
                                    [](double value) { return std::isfinite(value); });
    if (!outcome.ok || outcome.objective.empty() || !finite) {
      continue;
    }
    if (outcome.feasible) {
      all.feasible.push_back(all.outcomes.size());
    }
    width = std::min(width, outcome.objective.size());
    all.points.push_back(levels_of(history.space(), entry->config));
    all.outcomes.push_back(&outcome);
  }
  for (size_t entry = 0; !all.outcomes.empty() && entry < width; ++entry) {
    all.entries.emplace_back(history.space(), all.points, all.outcomes, entry, pareto || entry + 1 == width);
  }
  return all;
}

// The axes, and where several make up the KV cache its size as one more: contexts times slots times bits of K and V. What
// does not fit shows there first, whichever axis made it so. (Without it a model learns the edge of memory once for each
// pair of axes.)
class WithVolume {
 public:
  WithVolume(const Space& space, std::span<const Levels> candidates) : space_(space) {
    for (size_t axis = 0; axis < space.axes.size(); ++axis) {
      const std::string& name = space.axes[axis].name;
      const bool type = name == "cache_type_k" || name == "cache_type_v";
      if (type || name == "ctx_size" || name == "parallel") {
        Share share{axis, type, {}};
        for (const Value& value : space.axes[axis].values) {
          share.demand.push_back(memory_demand(name, value).value_or(0));
          if (share.demand.back() <= 0) {
            return;  // nobody knows what that takes
          }
        }
        shares_.push_back(std::move(share));
      }
    }
    if (shares_.size() < 2 || candidates.empty()) {
      return;
    }
    double most = least_ = log_volume(candidates.front());
    for (const Levels& candidate : candidates) {
      least_ = std::min(least_, log_volume(candidate));
      most = std::max(most, log_volume(candidate));
    }
    if (most - least_ < 1) {
      return;  // less than twice as much
    }
    step_ = (most - least_) / (kVolumeLevels - 1);
    Axis volume;
    volume.name = "kv volume";
    for (int64_t level = 0; level < kVolumeLevels; ++level) {
      volume.values.emplace_back(level);
    }
    space_.axes.push_back(std::move(volume));
  }

  const Space& space() const { return space_; }
  Levels operator()(Levels point) const {
    if (step_ > 0) {
      const double level = std::round((log_volume(point) - least_) / step_);
      point.push_back(static_cast<uint16_t>(std::clamp(level, 0.0, kVolumeLevels - 1.0)));
    }
    return point;
  }

 private:
  struct Share {
    size_t axis = 0;
    bool type = false;           // types add up, what else there is multiplies
    std::vector<double> demand;  // of each value
  };

  double log_volume(const Levels& point) const {
    double product = 1, bits = 0;
    for (const Share& share : shares_) {
      const double demand = share.demand[point[share.axis]];
      product *= share.type ? 1 : demand;
      bits += share.type ? demand : 0;
    }
    return std::log2(product * (bits > 0 ? bits : 1));
  }

  Space space_;
  std::vector<Share> shares_;
  double least_ = 0, step_ = 0;  // of the logarithm
};

// 1 for all where nothing has failed.
std::vector<double> feasible_probability(const History& history,
                                         std::span<const History::Entry* const> launches,
                                         std::span<const Levels> candidates) {
  const WithVolume widen(history.space(), candidates);
  std::vector<Levels> points;
  std::vector<double> verdicts;
  double failures = 0;
  for (const History::Entry* entry : launches) {
    points.push_back(widen(levels_of(history.space(), entry->config)));
    verdicts.push_back(entry->outcome.feasible ? 1 : 0);
    failures += entry->outcome.feasible ? 0 : 1;
  }
  std::vector<double> probability(candidates.size(), 1);
  if (failures == 0) {
    return probability;
  }
  Surrogate model(widen.space());
  const std::vector<double> noise(points.size(), kVerdictNoise);
  model.fit(points, verdicts, noise);
  std::vector<Levels> wide;
  for (const Levels& candidate : candidates) {
    wide.push_back(widen(candidate));
  }
  const auto predicted = model.predict(wide);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double z = (predicted[i].mean - 0.5) / std::hypot(predicted[i].sigma, kVerdictNoise);
    probability[i] = std::max(below(z), kLeastFeasible);
  }
  return probability;
}

std::vector<double> lexicographic(const Measured& all, std::span<const Levels> candidates) {
  std::vector<double> gain(candidates.size(), 0), holds(candidates.size(), 1);
  std::vector<size_t> leading = all.feasible;
  for (size_t at = 0; at < all.entries.size(); ++at) {
    const Entry& entry = all.entries[at];
    const bool last = at + 1 == all.entries.size();
    double peak = -std::numeric_limits<double>::infinity();
    for (size_t i : leading) {
      peak = std::max(peak, last ? entry.smooth(i) : entry.value(i));
    }
    const double tolerance = last ? 0 : kObjectiveTolerance;
    const auto predicted = entry.predict(candidates);
    for (size_t c = 0; c < candidates.size(); ++c) {
      const double above = below((predicted[c].mean - peak - tolerance) / predicted[c].sigma);
      gain[c] +=
          holds[c] * (expected_excess(predicted[c], peak + tolerance) + (last ? 0 : kEarlierGain * above));
      holds[c] *= std::max(below((predicted[c].mean - peak + tolerance) / predicted[c].sigma) - above, 0.0);
    }
    std::erase_if(leading, [&](size_t i) { return entry.value(i) < peak - tolerance; });
    if (leading.empty()) {
      break;  // only after the last entry, whose peak is the model's
    }
  }
  return gain;
}

std::vector<double> volume_added(const Measured& all, std::span<const Levels> candidates) {
  const size_t entries = all.entries.size();
  std::vector<double> floor(entries, std::numeric_limits<double>::infinity());
  std::vector<std::vector<double>> points;
  for (size_t i : all.feasible) {
    std::vector<double> point;
    for (size_t at = 0; at < entries; ++at) {
      point.push_back(all.entries[at].smooth(i));
      floor[at] = std::min(floor[at], point.back() - kObjectiveTolerance);
    }
    points.push_back(std::move(point));
  }
  std::vector<std::vector<double>> front;
  for (size_t i : front_of(points)) {
    front.push_back(points[i]);
  }
  const double covered = hypervolume(front, floor);
  std::vector<std::vector<Surrogate::Prediction>> predicted;
  for (const Entry& entry : all.entries) {
    predicted.push_back(entry.predict(candidates));
  }
  std::vector<double> added;
  for (size_t c = 0; c < candidates.size(); ++c) {
    std::vector<double> hoped;
    double sigma = 1;
    for (size_t at = 0; at < entries; ++at) {
      hoped.push_back(predicted[at][c].mean + kOptimism * predicted[at][c].sigma);
      sigma *= predicted[at][c].sigma;
    }
    const bool beaten =
        std::any_of(front.begin(), front.end(), [&](const auto& point) { return dominates(point, hoped); });
    double more = 1e-6 * sigma;  // where nothing is left to hope for, what is known least
    if (!beaten) {
      front.push_back(std::move(hoped));
      more += hypervolume(front, floor) - covered;
      front.pop_back();
    }
    added.push_back(more);
  }
  return added;
}

}  // namespace

Promise promise(const History& history, std::span<const Levels> candidates, bool pareto) {
  const auto launches = modelled(history, pareto);
  std::vector<double> probability = feasible_probability(history, launches, candidates);
  const Measured all = measured_of(history, launches, pareto);
  if (all.feasible.empty() || all.entries.empty()) {
    return {PromiseKind::kFeasible, std::move(probability)};
  }
  std::vector<double> gain = pareto ? volume_added(all, candidates) : lexicographic(all, candidates);
  for (size_t c = 0; c < candidates.size(); ++c) {
    gain[c] *= probability[c];
  }
  const PromiseKind kind = pareto                    ? PromiseKind::kVolume
                           : all.entries.size() == 1 ? PromiseKind::kGain
                                                     : PromiseKind::kRank;
  return {kind, std::move(gain)};
}

}  // namespace search
