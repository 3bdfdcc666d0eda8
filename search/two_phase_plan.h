#pragma once
// What two-phase has planned before it walks: the default, the sweep, the pair check, the winners together,
// the memory ladder. A function of the history alone, so a resumed study goes on where it stopped.

#include <optional>
#include <string>
#include <vector>

#include "search/sweep.h"

namespace search {

class TwoPhasePlan {
 public:
  TwoPhasePlan(const Space& space, const Limits& limits);

  // The next planned proposal, nullopt when nothing is left. A doomed one (Proposal::doomed) comes once.
  std::optional<Proposal> next(const History& history) const;
  const Singles& singles() const { return singles_; }

 private:
  std::optional<Proposal> next_pair(const History& history) const;
  std::optional<Proposal> next_combination(const History& history) const;
  std::optional<Proposal> next_of_ladder(const History& history) const;
  std::optional<Proposal> next_of_ladder(const History& history, size_t axis, size_t served) const;

  Singles singles_;
  std::vector<SweepPoint> sweep_;
  size_t in_place_points_ = 0;  // the first of sweep_
  std::vector<Pair> pairs_;
  size_t max_pairs_ = 0;
  bool pairs_in_place_ = false;
};

// "ctx_size 16384 -> 32768, n_threads 10 -> 20"
std::string change_text(const Space& space, const Config& from, const Config& to);

}  // namespace search
