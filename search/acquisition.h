#pragma once
// What launching a configuration promises, from a history: the models behind the strategy `model-based`.

#include <span>
#include <vector>

#include "search/candidates.h"

namespace search {

// One number per candidate, to be maximised; comparable within one call. Lexicographic: the expected gain over the
// best feasible launch, in logarithms; a gain in an earlier entry counts by itself, one in a later entry as far as the
// earlier ones are likely to hold. `pareto`: the hypervolume that the candidate adds to the front, taken optimistically.
// Both times the probability of being feasible. Before anything was feasible, that probability decides.
std::vector<double> promise(const History& history, std::span<const Levels> candidates, bool pareto);

}  // namespace search
