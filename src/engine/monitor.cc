#include "src/engine/monitor.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/engine/api.h"

namespace engine {
namespace {

double per_second(int64_t n, double seconds) {
  return seconds > 0 ? static_cast<double>(n) / seconds : 0;
}

base::Json slot_json(const SlotState& slot, int id, int n_ctx, bool speculative) {
  base::Json out = {
      {"id", id}, {"n_ctx", n_ctx}, {"speculative", speculative}, {"is_processing", slot.processing}};
  if (!slot.used) {
    return out;
  }
  CompletionRequest request;
  request.params = *slot.params;
  base::Json params = generation_settings(request, slot.seed);
  for (const char* key : {"stop", "logit_bias", "stream", "timings_per_token"}) {
    params.erase(key);  // llama-server leaves out the first two; the engine does not know the others
  }
  // Counts of a request are gone with it.
  const int n_decoded = slot.processing ? slot.n_decoded : 0;
  const int n_predict = slot.params->n_predict;
  out["id_task"] = slot.id_task;
  out["n_prompt_tokens"] = slot.n_tokens;
  out["n_prompt_tokens_processed"] = slot.processing ? slot.n_prompt_processed : 0;
  out["n_prompt_tokens_cache"] = slot.processing ? slot.n_prompt_cached : 0;
  out["params"] = std::move(params);
  out["next_token"] =
      base::Json::array({{{"has_next_token", slot.processing},
                          {"has_new_line", slot.has_new_line},
                          {"n_remain", n_predict < 0 ? -1 : std::max(0, n_predict - slot.n_decoded)},
                          {"n_decoded", n_decoded}}});
  return out;
}

}  // namespace

base::Json slots_json(const ServingBoard::View& view, int n_ctx, bool speculative) {
  base::Json out = base::Json::array();
  for (const SlotState& slot : view.slots) {
    out.push_back(slot_json(slot, static_cast<int>(out.size()), n_ctx, speculative));
  }
  return out;
}

std::string metrics_text(const ServingBoard::View& view) {
  const ServingTotals& t = view.totals;
  const ServingTotals& window = view.since_scrape;
  const auto n_processing =
      std::count_if(view.slots.begin(), view.slots.end(), [](const SlotState& s) { return s.processing; });
  std::string out;
  const auto row = [&out](const char* type, const char* name, const char* help, auto value) {
    out += fmt::format("# HELP llamacpp:{0} {1}\n# TYPE llamacpp:{0} {2}\nllamacpp:{0} {3}\n", name, help,
                       type, value);
  };
  row("counter", "prompt_tokens_total", "Prompt tokens evaluated, without those from the cache",
      t.prompt_tokens);
  row("counter", "prompt_tokens_cached_total", "Prompt tokens taken from the cache", t.cached_tokens);
  row("counter", "prompt_seconds_total", "Time spent on prompts", t.prompt_s);
  row("counter", "tokens_predicted_total", "Tokens generated", t.predicted_tokens);
  row("counter", "tokens_predicted_seconds_total", "Time spent on generating", t.predicted_s);
  row("counter", "n_decode_total", "Evaluations by the engine", t.decodes);
  row("counter", "n_tokens_max", "Longest sequence so far, prompt and generated tokens", t.longest_sequence);
  row("counter", "spec_decode_num_draft_tokens_total", "Tokens guessed ahead", t.draft_tokens);
  row("counter", "spec_decode_num_accepted_tokens_total", "Guessed tokens that the model confirmed",
      t.accepted_tokens);
  row("counter", "spec_decode_num_drafts_total", "Evaluations that verified guesses", t.drafts);
  row("gauge", "prompt_tokens_seconds", "Prompt tokens per second since the scrape before",
      per_second(window.prompt_tokens, window.prompt_s));
  row("gauge", "predicted_tokens_seconds", "Generated tokens per second since the scrape before",
      per_second(window.predicted_steps, window.predicted_s));
  row("gauge", "requests_processing", "Requests being worked on", n_processing);
  row("gauge", "requests_deferred", "Requests that wait for a slot", view.n_waiting);
  row("gauge", "n_busy_slots_per_decode", "Busy slots per evaluation, on average",
      t.decodes > 0 ? static_cast<double>(t.busy_slots) / static_cast<double>(t.decodes) : 0.0);
  return out;
}

}  // namespace engine
