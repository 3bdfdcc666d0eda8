#include "search/incumbent.h"

#include <vector>

#include "search/estimate.h"
#include "search/sweep.h"

namespace search {
namespace {

// Indices of the feasible entries that are within kObjectiveTolerance of the best in every entry of the
// objective but the last.
std::vector<size_t> leaders(const History& history) {
  std::vector<size_t> found;
  std::vector<const Outcome*> outcomes;
  std::vector<Outcome> loud;
  loud.reserve(history.entries().size());
  for (const History::Entry& entry : history.entries()) {
    loud.push_back(entry.outcome);
    outcomes.push_back(&loud.back());
  }
  auto best = best_of(outcomes, kObjectiveTolerance);
  for (size_t i = 0; best && i < loud.size(); ++i) {
    if (!loud[i].feasible || loud[i].objective.size() != loud[*best].objective.size()) {
      continue;
    }
    Difference from_best = measured_difference(loud[i], loud[*best]);
    if (from_best.relative == 0 || from_best.entry + 1 == loud[i].objective.size()) {
      found.push_back(i);
    }
  }
  return found;
}

}  // namespace

bool Incumbent::update(const History& history) {
  // Those whose earlier entries are as good as the best: the rest cannot lead, whatever their last entry is.
  // An earlier entry is thus not given away step by step.
  std::vector<size_t> leading = leaders(history);
  if (leading.empty()) {
    entry_.reset();
    return false;
  }
  std::vector<Outcome> outcomes = estimates(history, leading);
  size_t best = 0;
  const Outcome* now = nullptr;
  for (size_t i = 0; i < leading.size(); ++i) {
    if (outcomes[i].objective.back() > outcomes[best].objective.back()) {
      best = i;
    }
    if (entry_ == leading[i]) {
      now = &outcomes[i];
    }
  }
  if (entry_ == leading[best] || (now != nullptr && gain(outcomes[best], *now) <= 0)) {
    return false;
  }
  entry_ = leading[best];
  ++accepted_;
  return true;
}

const History::Entry* Incumbent::get(const History& history) const {
  return entry_ ? &history.entries()[*entry_] : nullptr;
}

}  // namespace search
