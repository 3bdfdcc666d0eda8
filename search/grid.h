#pragma once
// Every point of the space: the default, then the file's order with the last axis fastest.

#include "search/strategy.h"

namespace search {

// Index 0 .. grid_size - 1 as a mixed-radix number, the last axis fastest; not canonical.
Config grid_point(const Space& space, uint64_t index);

std::unique_ptr<Strategy> make_grid(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
