#include "src/engine/reasoning_budget.h"

namespace engine {

ReasoningBudget::ReasoningBudget(const ReasoningLimit& limit)
    : limit_(limit),
      state_(limit.n_max < 0 || limit.ending.empty() ? State::kDone
             : limit.inside && limit.n_max == 0      ? State::kForcing
                                                     : State::kWatching),
      splitter_(limit.inside) {}

std::optional<int> ReasoningBudget::forced() const {
  return state_ == State::kForcing ? std::optional(limit_.ending[n_forced_]) : std::nullopt;
}

void ReasoningBudget::accept(std::string_view piece, bool mid_character) {
  if (state_ == State::kForcing) {
    state_ = ++n_forced_ < limit_.ending.size() ? State::kForcing : State::kDone;
    return;
  }
  if (state_ == State::kDone) {
    return;
  }
  const bool was_inside = splitter_.inside();
  splitter_.push(piece);
  if (splitter_.ended()) {
    state_ = State::kDone;
  } else if (splitter_.inside()) {
    n_used_ += was_inside;  // the token that opens the reasoning is none of it
    if (n_used_ >= limit_.n_max && !mid_character) {
      state_ = State::kForcing;
    }
  }
}

}  // namespace engine
