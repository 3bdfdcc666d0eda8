#pragma once
// Who runs next: which slot a request gets, and how the tokens of one step are shared out among the slots.
// Pure.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace engine {

// A request goes to the slot that holds this part of its prompt, or to the least recently used one.
inline constexpr double kPromptSimilarity = 0.10;

struct SlotCandidate {
  bool busy = false;
  int n_common = 0;       // tokens of the prompt that its cache begins with
  int64_t last_used = 0;  // any rising number; 0: never
};

// The index of the slot for a prompt of n_prompt tokens, as llama-server chooses: `id_slot` modulo their number
// where it is not negative; else the free one with the longest common prefix, if that is more than
// kPromptSimilarity of the prompt; else the free one least recently used. The lower index of equals. -1: the
// request has to wait.
int choose_slot(std::span<const SlotCandidate> slots, int n_prompt, int id_slot);

// A slot in whose cache a longer part of the prompt lies than `chosen` has itself, by `min_gain` tokens or
// more: its rows can be shared. -1: none.
int choose_donor(std::span<const SlotCandidate> slots, int chosen, int min_gain);

// What a busy slot could use of the next step.
struct SlotDemand {
  int n_next = 0;            // while it generates: the last token, and the guesses after it
  int n_prompt = 0;          // tokens of the prompt still to evaluate; n_next is 0 then
  int tail_rows = 0;         // rows in the last page of its cache, if that is not full
  bool tail_shared = false;  // others have that page too: the next row needs a page of its own
};

struct StepBudget {
  int n_tokens = 1;  // n_batch
  int n_pages = 0;   // free pages of the cache
  int page_tokens = 1;
  int n_busy_tokens = std::numeric_limits<int>::max();  // n_ubatch; see below
};

// How many tokens of each slot's are in the next step; 0 for those that have to wait. Every generating slot has its
// last token before any has its guesses (all of them or none), and guesses come before prompts, which share
// what is left evenly. While anything generates, prompts are given no more than fills the step up to n_busy_tokens
// (one token where it is full already), so that nobody waits for his next token longer than that takes. `turn` says whose turn is first where there is not enough for all; let it rise by one from
// step to step.
std::vector<int> share_step(std::span<const SlotDemand> slots, const StepBudget& budget, int64_t turn);

}  // namespace engine
