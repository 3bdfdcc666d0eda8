#pragma once
// How far one configuration's predictions are from a reference's on the same tokens: perplexity, KL divergence, first
// choices. Pure; accumulates in double.

#include <optional>
#include <span>
#include <vector>

#include "src/base/loss_comparison.h"
#include "src/engine/perplexity.h"

namespace engine {

// KL(reference || test) in nats of two rows of logits, equally long; the log_sums are their TokenScore's. 0 or more;
// NaN or infinite where it is (a logit of -inf that the reference gives some probability).
double kl_divergence(std::span<const float> reference, double reference_log_sum, std::span<const float> test,
                     double test_log_sum);

// What one configuration made of the text, token by token.
struct TokenLosses {
  std::vector<double> nll, kld;
  size_t same_top = 0;  // tokens before which its first choice was the reference's
};

struct Quality {
  Perplexity perplexity;
  // Perplexity against the reference's; none where the tokens are too few for an interval.
  std::optional<base::LossComparison> change;
  // Nats. The error is the standard error of the mean.
  double kld_mean = 0, kld_error = 0, kld_median = 0, kld_p99 = 0, kld_max = 0;
  double same_top = 0;  // share
};
// Of the same tokens, one or more.
Quality compare(const TokenLosses& reference, const TokenLosses& test, const base::LossOptions& options);

}  // namespace engine
