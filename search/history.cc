#include "search/history.h"

#include <algorithm>

#include "search/axis_facts.h"

namespace search {

void History::tell(const Config& config, const Outcome& outcome) {
  Entry entry{space_.canonical(config), outcome};
  last_[key_of(entry.config)] = entries_.size();
  if (outcome.out_of_memory) {
    out_of_memory_.push_back(entry.config);
  }
  entries_.push_back(std::move(entry));
}

const Outcome* History::find(const Config& canonical) const {
  auto last = last_.find(key_of(canonical));
  return last != last_.end() ? &entries_[last->second].outcome : nullptr;
}

bool History::must_run_out_of_memory(const Config& canonical) const {
  return std::any_of(out_of_memory_.begin(), out_of_memory_.end(),
                     [&](const Config& failed) { return needs_at_least(space_, canonical, failed); });
}

bool History::worth_trying(const Config& canonical) const {
  return !told(canonical) && space_.violated(canonical).empty() && !must_run_out_of_memory(canonical);
}

const History::Entry* History::best() const {
  std::vector<const Outcome*> outcomes;
  for (const Entry& entry : entries_) {
    outcomes.push_back(&entry.outcome);
  }
  auto best = best_of(outcomes, kObjectiveTolerance);
  return best ? &entries_[*best] : nullptr;
}

}  // namespace search
