#pragma once
// Recall of a planted fact: context length x depth, filler measured in the server's own tokens.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "probes/endpoint.h"

namespace probes {

struct NeedleOptions {
  std::vector<int> lengths = {512};  // prompt tokens, approximately
  std::vector<double> depths = {0.1, 0.5, 0.9};
  int per_cell = 1;
  uint64_t seed = 1;  // which codes and which filler
  int max_tokens = 64;
  int max_thinking_tokens = 0;  // as Budget
  double max_answer_s = 0;
};
enum class NeedleVerdict { kFound, kWrong, kRefused, kTimedOut, kError };
std::string_view to_string(NeedleVerdict verdict);

struct NeedleRow {
  int length = 0, prompt_tokens = 0;
  double depth = 0;
  NeedleVerdict verdict = NeedleVerdict::kError;
  std::string expected, answer;
};
struct NeedleResult {
  std::vector<NeedleRow> rows;
  double recall = 0;  // found / rows
  int refused = 0, timed_out = 0;
};

// kFound: the expected words or digits are in the answer, punctuation and case aside, a number as a whole
// only. kTimedOut: its tokens or its time ended before it said anything that counts as an answer (endless
// thinking).
NeedleVerdict score_needle(std::string_view expected, const Generation& generation);
// The prompt of one cell, with `sentences` sentences of filler; pure. The fact stands after depth x
// sentences.
struct NeedlePrompt {
  std::string text, expected;
};
NeedlePrompt make_needle_prompt(uint64_t seed, int cell, int sentences, double depth);
// A request that times out is a row (kTimedOut), the second in a row an Error; a server that is gone is an
// Error at once; a request it refuses is a row (kError).
base::Result<NeedleResult> run_needle(const Endpoint& endpoint, const NeedleOptions& options);
base::Json to_json(const NeedleResult& result);

}  // namespace probes
