#pragma once
// What the engine is doing and has done, written by the engine thread and read by /slots and /metrics at any
// time, also while a step runs.

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "src/engine/generation_types.h"

namespace engine {

struct ServingTotals {  // since the server started; a reconfiguration does not reset them
  int64_t prompt_tokens = 0, cached_tokens = 0, predicted_tokens = 0;
  double prompt_s = 0, predicted_s = 0;
  int64_t predicted_steps = 0;  // tokens after each request's first one: what predicted_s was spent on
  int64_t decodes = 0;          // calls of Context::step
  int64_t busy_slots = 0;       // those with tokens in it, summed over those calls
  int64_t longest_sequence = 0;
  int64_t drafts = 0, draft_tokens = 0, accepted_tokens = 0;  // speculation
};

struct SlotState {
  bool used = false, processing = false;
  int64_t id_task = 0;  // requests are counted from 0
  std::shared_ptr<const GenerationParams> params = std::make_shared<const GenerationParams>();  // never null
  uint32_t seed = 0;
  int n_tokens = 0;  // rows in the cache
  int n_prompt_processed = 0, n_prompt_cached = 0, n_decoded = 0;
  bool has_new_line = false;
};

class ServingBoard {
 public:
  struct View {
    ServingTotals totals;
    ServingTotals since_scrape;  // the part of `totals` since the last view taken with `scrape`
    std::vector<SlotState> slots;
    int n_waiting = 0;
    int64_t n_tasks = 0;
  };

  template <class Change>
  void update(Change&& change) {
    std::lock_guard lock(mutex_);
    change(now_);
  }
  View view(bool scrape = false);

 private:
  std::mutex mutex_;
  View now_;  // since_scrape unused
  ServingTotals scraped_;
};

}  // namespace engine
