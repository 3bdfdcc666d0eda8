#pragma once
// Bayesian optimisation for a few dozen expensive launches: the default, then whatever promises most by a surrogate of
// each entry of the objective (surrogate.h) and one of what is feasible. Why this model, and why it does not begin with
// a sweep: README.md.

#include "search/strategy.h"

namespace search {

std::unique_ptr<Strategy> make_model_based(const Space& space, uint64_t seed, const Limits& limits);

}  // namespace search
