#include "src/engine/evaluation.h"

#include <algorithm>
#include <cmath>

#include "src/base/stats.h"

namespace engine {

double kl_divergence(std::span<const float> reference, double reference_log_sum, std::span<const float> test,
                     double test_log_sum) {
  AR_CHECK(reference.size() == test.size(), "logits of different vocabularies");
  double sum = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = double{reference[i]} - reference_log_sum;
    const double p = std::exp(log_p);
    if (p > 0) {
      sum += p * (log_p - (double{test[i]} - test_log_sum));
    }
  }
  return sum < 0 ? 0 : sum;  // rounding; NaN stays
}

Quality compare(const TokenLosses& reference, const TokenLosses& test, const base::LossOptions& options) {
  const size_t n = test.nll.size();
  AR_CHECK(n > 0 && reference.nll.size() == n && test.kld.size() == n, "losses of different tokens");
  Quality out;
  out.perplexity = summarize(test.nll);
  if (n >= options.min_tokens()) {
    std::vector<double> differences(n);
    for (size_t i = 0; i < n; ++i) {
      differences[i] = test.nll[i] - reference.nll[i];
    }
    out.change = base::compare_losses(differences, options);
  }
  out.kld_mean = base::mean(test.kld);
  out.kld_error = n > 1 ? base::stddev(test.kld) / std::sqrt(static_cast<double>(n)) : 0;
  out.kld_median = base::median(test.kld);
  out.kld_p99 = base::quantile(test.kld, 0.99);
  out.kld_max = *std::ranges::max_element(test.kld);
  out.same_top = static_cast<double>(test.same_top) / static_cast<double>(n);
  return out;
}

}  // namespace engine
