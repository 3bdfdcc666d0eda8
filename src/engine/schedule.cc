#include "src/engine/schedule.h"

#include <algorithm>

namespace engine {
namespace {

// Hands out tokens, and the pages their rows take.
class Purse {
 public:
  Purse(std::span<const SlotDemand> slots, const StepBudget& budget)
      : slots_(slots), left_(budget), shares_(slots.size(), 0) {}

  // The most of `n` more tokens that the slot can have.
  int room(size_t slot, int n) const {
    const int64_t rows = (cost(slot, shares_[slot]) + left_.n_pages + owned(slot)) * left_.page_tokens -
                         slots_[slot].tail_rows - shares_[slot];
    return static_cast<int>(std::clamp<int64_t>(rows, 0, std::min(n, left_.n_tokens)));
  }
  void give(size_t slot, int n) {
    left_.n_pages -= static_cast<int>(cost(slot, shares_[slot] + n) - cost(slot, shares_[slot]));
    left_.n_tokens -= n;
    shares_[slot] += n;
  }
  void leave(int n_tokens) { left_.n_tokens = std::min(left_.n_tokens, n_tokens); }
  int tokens_left() const { return left_.n_tokens; }
  std::vector<int> take() { return std::move(shares_); }
  int share(size_t slot) const { return shares_[slot]; }

 private:
  int64_t owned(size_t slot) const { return slots_[slot].tail_rows > 0 && !slots_[slot].tail_shared ? 1 : 0; }
  // Pages that n more rows take.
  int64_t cost(size_t slot, int n) const {
    const int64_t rows = int64_t{slots_[slot].tail_rows} + n;
    return n == 0 ? 0 : (rows + left_.page_tokens - 1) / left_.page_tokens - owned(slot);
  }

  std::span<const SlotDemand> slots_;
  StepBudget left_;
  std::vector<int> shares_;
};

}  // namespace

int choose_slot(std::span<const SlotCandidate> slots, int n_prompt, int id_slot) {
  if (slots.empty()) {
    return -1;
  }
  if (id_slot >= 0) {
    const auto index = static_cast<size_t>(id_slot) % slots.size();
    return slots[index].busy ? -1 : static_cast<int>(index);
  }
  int similar = -1, oldest = -1;
  for (size_t i = 0; i < slots.size(); ++i) {
    const SlotCandidate& slot = slots[i];
    if (slot.busy) {
      continue;
    }
    const int index = static_cast<int>(i);
    if (slot.n_common > kPromptSimilarity * n_prompt &&
        (similar < 0 || slot.n_common > slots[static_cast<size_t>(similar)].n_common)) {
      similar = index;
    }
    if (oldest < 0 || slot.last_used < slots[static_cast<size_t>(oldest)].last_used) {
      oldest = index;
    }
  }
  return similar >= 0 ? similar : oldest;
}

int choose_donor(std::span<const SlotCandidate> slots, int chosen, int min_gain) {
  int best = -1, n_best = slots[static_cast<size_t>(chosen)].n_common + min_gain - 1;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].n_common > n_best && static_cast<int>(i) != chosen) {
      best = static_cast<int>(i);
      n_best = slots[i].n_common;
    }
  }
  return best;
}

std::vector<int> share_step(std::span<const SlotDemand> slots, const StepBudget& budget, int64_t turn) {
  Purse purse(slots, budget);
  const size_t n = slots.size();
  const auto at = [&](size_t i) { return (static_cast<size_t>(turn) + i) % n; };
  for (size_t i = 0; i < n; ++i) {
    const size_t slot = at(i);
    if (slots[slot].n_next > 0 && purse.room(slot, 1) == 1) {
      purse.give(slot, 1);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    const size_t slot = at(i);
    const int guesses = slots[slot].n_next - 1;
    if (guesses > 0 && purse.share(slot) == 1 && purse.room(slot, guesses) == guesses) {
      purse.give(slot, guesses);
    }
  }
  if (const int given = budget.n_tokens - purse.tokens_left(); given > 0) {
    purse.leave(std::max(1, budget.n_busy_tokens - given));
  }
  // Prompts, evenly: what one does not need is for the others, in as many rounds as that takes.
  while (purse.tokens_left() > 0) {
    std::vector<size_t> hungry;
    for (size_t i = 0; i < n; ++i) {
      const size_t slot = at(i);
      const int more = slots[slot].n_prompt - purse.share(slot);
      if (more > 0 && purse.room(slot, more) > 0) {
        hungry.push_back(slot);
      }
    }
    if (hungry.empty()) {
      break;
    }
    const int each = std::max(1, purse.tokens_left() / static_cast<int>(hungry.size()));
    for (const size_t slot : hungry) {
      const int given = purse.room(slot, std::min(each, slots[slot].n_prompt - purse.share(slot)));
      if (given > 0) {
        purse.give(slot, given);
      }
    }
  }
  return purse.take();
}

}  // namespace engine
