#pragma once
// Phase 1 of two-phase: which single-axis changes of the default to try, and what they showed; then which
// pairs of two axes that meet in one kernel.

#include <optional>
#include <string>
#include <vector>

#include "search/history.h"
#include "search/space.h"
#include "search/ties.h"

namespace search {

// The default with one axis changed, axes tied to it by a constraint moved along (with_change): every value of
// every axis, made once.
class Singles {
 public:
  explicit Singles(const Space& space);
  // nullopt where nothing repairs it. The default's own value gives the default.
  const std::optional<Config>& at(size_t axis, size_t value) const { return configs_[axis][value]; }

 private:
  std::vector<std::vector<std::optional<Config>>> configs_;
};

struct SweepPoint {
  size_t axis = 0, value = 0;  // indices into space.axes and its values
  Config config;               // Singles::at
};

// Axes by importance, per axis up to sweep_values values spread over its range; a configuration that two axes
// lead to comes once. When there are more than max_points, the n-th value of an axis counts for its
// importance / n, and what counts least goes. Points that differ from the default in `in_place` axes alone
// come first: they share its load.
std::vector<SweepPoint> plan_sweep(const Space& space, const Singles& singles, int max_points,
                                   const std::vector<std::string>& in_place = {});

// True when `a` and `b` differ in axes of `in_place` alone.
bool differ_in_place(const Space& space, const std::vector<std::string>& in_place, const Config& a,
                     const Config& b);

// Two values of partner axes (axis_facts) together, the rest as in the default.
struct Pair {
  Change first, second;
  Config config;
};
// The sweep changes one axis, so it never meets a pair of two values that are not the default's. These walk
// down the staircase of the values both axes have, richest first: a mixed pair of neighbours, then the leaner
// of both with itself.
std::vector<Pair> plan_pairs(const Space& space);

struct Difference {
  double relative = 0;  // signed, of a over b; +-1 when only one of the two is feasible
  size_t entry = 0;     // of the objective, where relative != 0 and both are feasible
};
// In the first entry of the objective where they differ by more than kObjectiveTolerance and, in the last
// one, more than the combined noise sqrt(a^2 + b^2); 0 when in none, or when neither is feasible.
Difference difference(const Outcome& a, const Outcome& b);
// The same without a look at feasibility; no difference where one was not measured.
Difference measured_difference(const Outcome& a, const Outcome& b);
double gain(const Outcome& a, const Outcome& b);  // difference().relative

// What changing this axis alone from the default to this value came to; nullptr when it was not launched.
const Outcome* alone(const History& history, const Singles& singles, size_t axis, size_t value);

// The default's outcome, its last entry steadied by the singles that cannot be told from it (within twice the
// combined noise): most axes matter little, so most singles measure the default once more, and one unlucky
// launch of the default does not make everything look good. Not feasible when the default was not launched.
Outcome reference(const History& history, const Singles& singles);

// How much an axis mattered by itself against `usual`, a reference: the largest |gain| over the values tried,
// capped at 1; a failure counts too.
double effect(const History& history, const Singles& singles, const Outcome& usual, size_t axis);

}  // namespace search
