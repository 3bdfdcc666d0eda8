#include "search/ties.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace search {
namespace {

// Two axes of 256 values each are searched completely; what takes longer is not a repair any more.
constexpr int kMaxEvaluations = 70'000;

class Repair {
 public:
  Repair(const Space& space, const Config& from, std::span<const Change> changes)
      : space_(space), start_(from), changes_(changes) {
    for (const Change& change : changes) {
      start_[change.axis] = space.axes[change.axis].values[change.value];
    }
  }

  std::optional<Config> run() {
    if (consider(start_, 0)) {
      return best_;
    }
    if (!survives(space_.canonical(start_))) {
      return std::nullopt;
    }
    std::vector<size_t> tied = tied_axes();
    for (size_t axis : tied) {
      vary(axis, start_, 0);
    }
    for (size_t i = 0; !best_ && i < tied.size(); ++i) {
      for (size_t j = i + 1; j < tied.size(); ++j) {
        for (size_t value = 0; value < space_.axes[tied[i]].values.size(); ++value) {
          Config config = start_;
          config[tied[i]] = space_.axes[tied[i]].values[value];
          size_t steps = steps_of(tied[i], value);
          if (steps > 0) {
            vary(tied[j], config, steps);
          }
        }
      }
    }
    return best_;
  }

 private:
  bool survives(const Config& canonical) const {
    return std::all_of(changes_.begin(), changes_.end(), [&](const Change& change) {
      return equal(canonical[change.axis], space_.axes[change.axis].values[change.value]);
    });
  }

  size_t steps_of(size_t axis, size_t value) const {
    const Axis& it = space_.axes[axis];
    size_t now = it.index_of(start_[axis]);
    return value == now ? 0 : it.ordered ? std::max(value, now) - std::min(value, now) : 1;
  }

  bool consider(const Config& config, size_t steps) {
    if (best_ && steps >= best_steps_) {
      return false;
    }
    ++evaluations_;
    Config canonical = space_.canonical(config);
    if (!survives(canonical) || !space_.violated(canonical).empty()) {
      return false;
    }
    best_ = std::move(canonical);
    best_steps_ = steps;
    return true;
  }

  void vary(size_t axis, const Config& from, size_t steps_before) {
    for (size_t value = 0; value < space_.axes[axis].values.size() && evaluations_ < kMaxEvaluations;
         ++value) {
      size_t steps = steps_of(axis, value);
      if (steps > 0) {
        Config config = from;
        config[axis] = space_.axes[axis].values[value];
        consider(config, steps_before + steps);
      }
    }
  }

  // The axes named by a constraint, changed ones left out. All constraints: repairing one may break another.
  std::vector<size_t> tied_axes() const {
    std::vector<bool> named(space_.axes.size(), false);
    for (const Expression& constraint : space_.constraints) {
      for (const std::string& name : constraint.names()) {
        size_t axis = space_.index_of(name);
        if (axis < named.size()) {
          named[axis] = true;
        }
      }
    }
    for (const Change& change : changes_) {
      named[change.axis] = false;
    }
    std::vector<size_t> axes;
    for (size_t axis = 0; axis < named.size(); ++axis) {
      if (named[axis]) {
        axes.push_back(axis);
      }
    }
    return axes;
  }

  const Space& space_;
  Config start_;
  std::span<const Change> changes_;
  std::optional<Config> best_;
  size_t best_steps_ = std::numeric_limits<size_t>::max();
  int evaluations_ = 0;
};

}  // namespace

std::optional<Config> with_changes(const Space& space, const Config& from, std::span<const Change> changes) {
  return Repair(space, from, changes).run();
}

std::optional<Config> with_change(const Space& space, const Config& from, size_t axis, size_t value) {
  const Change change{axis, value};
  return with_changes(space, from, {&change, 1});
}

}  // namespace search
