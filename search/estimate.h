#pragma once
// What the last entry of the objective probably is for configurations launched once each: every launch says
// something about the values it shares with others, so a lucky launch whose neighbours are ordinary is drawn
// back towards them.

#include <vector>

#include "search/history.h"

namespace search {

// Of these entries (indices into history.entries(), measured, with objectives alike but for the last entry):
// outcomes with the last entry replaced by its estimate, and noise by what is left of it. An additive model of
// the axes' values, each effect held near 0 by a prior of 10%, and of what remains of a launch the share that
// is not noise, given 3% of true interaction. Entries without known noise stay as measured.
std::vector<Outcome> estimates(const History& history, const std::vector<size_t>& entries);

}  // namespace search
