#pragma once
// Known-answer prompts, scored by keyword groups. Compared between trials item by item.

#include <string>
#include <string_view>
#include <vector>

#include "probes/endpoint.h"

namespace probes {

struct QualityItem {
  std::string id, category, prompt;
  // Matched case-insensitively on word starts in the answer without its thinking ("cache" is in "cached", not
  // in "supercache"); a number only as a whole ("12" is not in "120", "3,127" or "1.12").
  std::vector<std::string> all_of, any_of, none_of;
  int max_tokens = 64;
};

// kCutOff: it missed because its tokens ended, those of its thinking included. kTimedOut: it was still talking
// when its time was over (a server that says nothing at all is an Error instead).
enum class Verdict { kPass, kMiss, kRefused, kCutOff, kTimedOut, kError };
std::string_view to_string(Verdict verdict);

struct QualityOptions {
  int max_thinking_tokens = 0;  // as Budget
  double max_answer_s = 0;
};

struct QualityAnswer {
  std::string id;
  Verdict verdict = Verdict::kError;
  std::string answer;  // at most 400 bytes, for the journal
  double total_ms = 0;
};
struct QualityResult {
  std::vector<QualityAnswer> items;
  int passed = 0;
  int refused = 0;
  int runaway = 0;   // never came to an answer: thinking without end, or past the time of one answer
  double score = 0;  // passed / items
};

// A suite file: JSON {"name": ..., "items": [{id, category, prompt, all_of?, any_of?, none_of?,
// max_tokens?}]}. Every item needs an id of its own, a prompt, and at least one keyword group; unknown keys
// are errors.
base::Result<std::vector<QualityItem>> parse_suite(std::string_view json_text, std::string_view where);
// An answer that opens with a refusal is kRefused whatever it goes on to say; one that misses because it
// ended at max_tokens is kCutOff; finish_reason "error" is kError.
// A model that runs away does so on every prompt: after this many in a row the rest is not asked, but counted.
inline constexpr int kRunawaysInARow = 5;
bool ran_away(const Generation& generation);
bool has_keyword(std::string_view text, std::string_view keyword);
Verdict score_answer(const QualityItem& item, const Generation& generation);
QualityResult score_quality(const std::vector<QualityItem>& items,
                            const std::vector<Generation>& generations);
// An item whose request the server refuses (HTTP 4xx, 5xx) is kError; a dead or hung server is an Error.
base::Result<QualityResult> run_quality(const Endpoint& endpoint, const std::vector<QualityItem>& items,
                                        const QualityOptions& options = {});
base::Json to_json(const QualityResult& result);

}  // namespace probes
