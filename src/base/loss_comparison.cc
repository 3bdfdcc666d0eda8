#include "src/base/loss_comparison.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "src/base/check.h"
#include "src/base/mix.h"
#include "src/base/stats.h"

namespace base {
namespace {

// Means of `resamples` draws of n differences in whole blocks, around the end and on from the start (so that every
// token is as likely as any other).
std::vector<double> block_bootstrap(std::span<const double> differences, const LossOptions& options) {
  const size_t n = differences.size(), block = std::min<size_t>(static_cast<size_t>(options.block), n);
  const size_t blocks = (n + block - 1) / block;
  std::vector<double> sums(n);  // of the block that starts here
  double sum = 0;
  for (size_t i = 0; i < block; ++i) {
    sum += differences[i];
  }
  for (size_t i = 0; i < n; ++i) {
    sums[i] = sum;
    sum += differences[(i + block) % n] - differences[i];
  }
  std::vector<double> means;
  uint64_t draw = 0;
  for (int r = 0; r < options.resamples; ++r) {
    double total = 0;
    for (size_t b = 0; b < blocks; ++b) {
      total += sums[mix(options.seed, draw++) % n];
    }
    means.push_back(total / static_cast<double>(blocks * block));
  }
  return means;
}

}  // namespace

std::string_view to_string(LossVerdict verdict) {
  return verdict == LossVerdict::kPass ? "pass" : verdict == LossVerdict::kFail ? "fail" : "undecided";
}

LossComparison compare_losses(std::span<const double> differences, const LossOptions& options) {
  AR_CHECK(options.block > 0 && options.resamples > 0 && options.margin > 0 && options.confidence > 0 &&
               options.confidence < 1,
           "options out of range");
  AR_CHECK(differences.size() >= options.min_tokens(), "too few tokens for an interval");
  const double mean = base::mean(differences), limit = std::log1p(options.margin);
  const std::vector<double> means = block_bootstrap(differences, options);
  const double low = quantile(means, (1 - options.confidence) / 2);
  const double high = quantile(means, (1 + options.confidence) / 2);
  LossComparison result;
  result.ratio = std::exp(mean);
  result.low = std::exp(low);
  result.high = std::exp(high);
  if (high < limit) {
    result.verdict = LossVerdict::kPass;
  } else if (low > limit) {
    result.verdict = LossVerdict::kFail;
  } else {
    // The interval shrinks with the root of the tokens; the side towards the margin must end before it.
    const double side = mean < limit ? high - mean : mean - low;
    const double distance = std::abs(limit - mean);
    const auto count = static_cast<double>(differences.size());
    const double needed = distance > 0 ? std::ceil(count * (side / distance) * (side / distance)) : 0;
    result.tokens_needed = needed > 0 && needed < 1e12 ? static_cast<size_t>(needed) : 0;
  }
  return result;
}

}  // namespace base
