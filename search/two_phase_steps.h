#pragma once
// The walk of two-phase: a step on one or two axes from a centre, biased to what mattered in the sweep.

#include <optional>
#include <string>
#include <vector>

#include "search/sweep.h"

namespace search {

// One step along ordered axes, any other name along the rest; axes tied by a constraint move along. Axes in
// `in_place` are a little more likely: their steps cost no load. Doomed points are passed over in silence.
// Deterministic for the seed and the number of launches so far; nullopt when no step is left.
std::optional<Proposal> next_step(const History& history, const Singles& singles, const Config& centre,
                                  uint64_t seed, const std::vector<std::string>& in_place);

}  // namespace search
