#pragma once
// The default strategy. Phase 1, in at most half of the trials: the default, then each axis by itself from the
// default (axes tied by a constraint move along), likely important axes first, those that a running server
// changes before the others; some pairs of KV types. Phase 2: the winners of the axes together; where larger
// values failed for lack of memory, those with the leanest values; then steps on one or two axes from the
// incumbent (incumbent.h), biased to what mattered, until kPatience new points in a row gain nothing beyond
// noise; then what a model of all launches promises most of (model_based.h), until as many of those gain nothing: a walk
// ends beside what only two axes together reach. A gain leads back to steps. What the frontier of memory failures dooms is
// proposed as such, and one in so many audited.

#include "search/strategy.h"

namespace search {

// Half as many again where launches are so noisy that a true gain shows only every other time.
inline constexpr int kPatience = 8, kPatienceInNoise = 12;
inline constexpr double kNoisy = 0.03;  // relative, of one launch

std::unique_ptr<Strategy> make_two_phase(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
