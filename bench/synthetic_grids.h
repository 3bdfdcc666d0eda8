#pragma once
// Grids in memory that behave as servers do, for tests and replay-bench: what a real grid showed, drawn with a formula.

#include <string>
#include <vector>

#include "search/replay.h"

namespace bench {

struct NamedGrid {
  std::string name, what;
  search::RecordedGrid grid;
};

// K and V types are fast in pairs alone, and large micro-batches pay with many threads alone: an axis sweep from the
// default sees only losses.
NamedGrid interaction_grid();
// Contexts, slots and types of which over 30% do not fit or answer too badly; the longest context counts first.
NamedGrid infeasible_grid();
// Speed grows with threads and micro-batch until it falls off: the peak lies beside the edge.
NamedGrid cliff_grid();
// Eight axes with their conditions, most of them of little weight: 10^4 points.
NamedGrid wide_grid();
// Decode against prefill, as a Pareto front.
NamedGrid pareto_grid();
std::vector<NamedGrid> synthetic_grids();

}  // namespace bench
