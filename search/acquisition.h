#pragma once
// What launching a configuration promises, from a history: the models behind the strategy `model-based`.

#include <span>
#include <vector>

#include "search/candidates.h"

namespace search {

// What the numbers of a Promise are.
enum class PromiseKind {
  kFeasible,  // the probability of being feasible: nothing was, so far
  kGain,      // of the only entry: the expected gain over the best feasible launch, relative
  kRank,  // of several: the gains of all, an earlier one beside its size, a later one as far as the earlier ones are
          // likely to hold; it ranks, and is no quantity
  kVolume,  // the hypervolume that the candidate adds to the front, taken optimistically
};

// One number per candidate, to be maximised; comparable within one call. All but the first kind are multiplied by the
// probability of being feasible.
struct Promise {
  PromiseKind kind = PromiseKind::kFeasible;
  std::vector<double> values;
};
Promise promise(const History& history, std::span<const Levels> candidates, bool pareto);

}  // namespace search
