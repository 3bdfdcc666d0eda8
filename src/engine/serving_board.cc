#include "src/engine/serving_board.h"

namespace engine {

ServingBoard::View ServingBoard::view(bool scrape) {
  std::lock_guard lock(mutex_);
  View seen = now_;
  ServingTotals& since = seen.since_scrape;
  since.prompt_tokens = now_.totals.prompt_tokens - scraped_.prompt_tokens;
  since.prompt_s = now_.totals.prompt_s - scraped_.prompt_s;
  since.predicted_steps = now_.totals.predicted_steps - scraped_.predicted_steps;
  since.predicted_s = now_.totals.predicted_s - scraped_.predicted_s;
  if (scrape) {
    scraped_ = now_.totals;
  }
  return seen;
}

}  // namespace engine
