#pragma once
// The default strategy. Phase 1: the default, then each axis by itself from the default, likely important
// axes first, in at most half of the trials. Phase 2: the winners of the axes together; where larger values
// failed for lack of memory, those with the leanest values that did no harm; then steps on one or two axes
// from the best point, biased to what mattered, until kPatience trials in a row gain nothing.

#include "search/strategy.h"

namespace search {

inline constexpr int kPatience = 8;

std::unique_ptr<Strategy> make_two_phase(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
