#pragma once
// The centre of the steps. The best of many noisy numbers is mostly luck, so a challenger takes the place only
// when it gains more than the combined noise of both, sqrt(a^2 + b^2): one sigma of their difference. One and
// not two, because a step may be wrong (the next one starts nearby all the same, and finals and confirmation
// launch afresh) while a gain that is refused is lost: at two sigma a true gain as large as the combined noise
// would be taken one time in six only.

#include <optional>

#include "search/history.h"

namespace search {

class Incumbent {
 public:
  // After each tell. True when another configuration has become the centre by a real gain.
  bool update(const History& history);
  // nullptr until something was feasible. Points into `history`.
  const History::Entry* get(const History& history) const;
  int accepted() const { return accepted_; }  // real gains so far

 private:
  std::optional<size_t> entry_;  // of history.entries()
  int accepted_ = 0;
};

}  // namespace search
