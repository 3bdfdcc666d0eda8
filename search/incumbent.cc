#include "search/incumbent.h"

#include <vector>

#include "search/sweep.h"

namespace search {

bool Incumbent::update(const History& history) {
  std::vector<const Outcome*> outcomes;
  outcomes.reserve(history.entries().size());
  for (const History::Entry& entry : history.entries()) {
    outcomes.push_back(&entry.outcome);
  }
  auto leader = best_of(outcomes, kObjectiveTolerance);
  if (!leader || leader == entry_) {
    entry_ = leader;
    return false;
  }
  bool first = !entry_ || !outcomes[*entry_]->feasible;
  // Against the leader of all, not each newcomer: an earlier entry of the objective is not given away step by
  // step, and a centre whose pooled value has sunk is left.
  bool gained = first || gain(*outcomes[*leader], *outcomes[*entry_]) > 0;
  if (gained) {
    entry_ = leader;
    ++accepted_;
  }
  return gained;
}

const History::Entry* Incumbent::get(const History& history) const {
  return entry_ ? &history.entries()[*entry_] : nullptr;
}

}  // namespace search
