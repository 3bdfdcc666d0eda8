#pragma once
// A textbook tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), as a baseline: the default, ten points
// drawn evenly, then the best of 24 draws from the density of the good ones, by its ratio to the density of the rest.
// Each axis by itself; failures count as bad.

#include "search/strategy.h"

namespace search {

std::unique_ptr<Strategy> make_tpe(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
