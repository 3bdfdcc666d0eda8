#pragma once
// Known-answer prompts, scored by keyword groups. Compared between trials item by item.

#include <string>
#include <string_view>
#include <vector>

#include "probes/endpoint.h"

namespace probes {

struct QualityItem {
  std::string id, category, prompt;
  // Matched case-insensitively on word starts in the answer without its thinking.
  std::vector<std::string> all_of, any_of, none_of;
  int max_tokens = 64;
};

enum class Verdict { kPass, kMiss, kRefused, kCutOff, kError };
std::string_view to_string(Verdict verdict);

struct QualityAnswer {
  std::string id;
  Verdict verdict = Verdict::kError;
  std::string answer;  // at most 400 bytes, for the journal
  double total_ms = 0;
};
struct QualityResult {
  std::vector<QualityAnswer> items;
  int passed = 0;
  double score = 0;  // passed / items
};

// A suite file: JSON {"name": ..., "items": [{id, category, prompt, all_of?, any_of?, none_of?,
// max_tokens?}]}.
base::Result<std::vector<QualityItem>> parse_suite(std::string_view json_text, std::string_view where);
Verdict score_answer(const QualityItem& item, const Generation& generation);
QualityResult score_quality(const std::vector<QualityItem>& items,
                            const std::vector<Generation>& generations);
base::Result<QualityResult> run_quality(const Endpoint& endpoint, const std::vector<QualityItem>& items);
base::Json to_json(const QualityResult& result);

}  // namespace probes
