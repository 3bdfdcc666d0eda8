#pragma once
// The baseline every strategy must beat: the default, then points drawn evenly from the whole space.

#include "search/strategy.h"

namespace search {

std::unique_ptr<Strategy> make_random(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
