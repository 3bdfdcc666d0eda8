#pragma once
// Phase 1 of two-phase: which single-axis changes of the default to try, and what they showed.

#include <vector>

#include "search/history.h"
#include "search/space.h"

namespace search {

struct SweepPoint {
  size_t axis = 0, value = 0;  // indices into space.axes and its values
};

// The default with one axis changed; canonical.
Config changed(const Space& space, const Config& from, size_t axis, size_t value);

// Axes by importance, per axis up to sweep_values values spread over its range. Values that break a
// constraint or change nothing (inactive axis) are left out. When there are more than max_points, the n-th
// value of an axis counts for its importance / n, and what counts least goes.
std::vector<SweepPoint> plan_sweep(const Space& space, int max_points);

// Signed relative difference of a over b in the first entry of the objective where they differ by more than
// tolerance and noise; 0 when in none. +-1 when only one of the two is feasible; 0 when neither is.
double gain(const Outcome& a, const Outcome& b);

// What changing this axis alone from the default to this value came to; nullptr when that was not told. The
// default's own value gives the default's outcome.
const Outcome* alone(const History& history, size_t axis, size_t value);

// How much an axis mattered by itself: the largest |gain| over the values tried, capped at 1; a failure
// counts too.
double effect(const History& history, size_t axis);

}  // namespace search
