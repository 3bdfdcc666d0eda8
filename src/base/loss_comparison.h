#pragma once
// Whether one configuration's perplexity is worse than another's, from their losses on the same tokens: the paired
// difference, its interval by a block bootstrap, and a verdict against a margin. Pure and repeatable.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace base {

struct LossOptions {
  double margin = 0.02;  // of perplexity: more than this is worse
  double confidence = 0.95;
  int block = 64;  // tokens that are drawn together: losses of neighbours depend on each other
  int resamples = 2000;
  uint64_t seed = 1;

  // Fewer tokens than this have no interval.
  size_t min_tokens() const { return 4 * static_cast<size_t>(block); }
};

// kPass: the upper bound of the interval is under the margin. kFail: its lower bound is over it.
enum class LossVerdict { kPass, kFail, kUndecided };
std::string_view to_string(LossVerdict verdict);  // "pass", "fail", "undecided"

struct LossComparison {
  double ratio = 0, low = 0, high = 0;  // of the perplexities, test / base, and its interval
  LossVerdict verdict = LossVerdict::kUndecided;
  // Of kUndecided: about how many tokens an interval that does not contain the margin takes; 0 = no number would do
  // (the difference is the margin).
  size_t tokens_needed = 0;
};

// differences[i]: the test's -ln p of token i less the base's; options.min_tokens() of them or more, all numbers.
LossComparison compare_losses(std::span<const double> differences, const LossOptions& options);

}  // namespace base
