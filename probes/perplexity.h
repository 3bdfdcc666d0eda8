#pragma once
// Perplexity of one configuration against another (a quantized KV cache against f16), paired token by token on the
// same text. Scoring only: the losses come from a server (prompt_losses.h) or from files that an evaluation program
// writes.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/base/loss_comparison.h"

namespace probes {

// What a model said of one token of the text.
struct TokenLoss {
  int token = 0;   // its id: two runs are of the same text only where these agree
  double nll = 0;  // -ln of its probability, >= 0
  int top = -1;    // the id it would have chosen; -1 = not given
  double kl = -1;  // KL divergence from the reference's distribution in nats; -1 = not given
};

// One JSON object per line: {"token": id, "nll": x, "top": id?, "kl": x?}. `where` is the path in messages.
base::Result<std::vector<TokenLoss>> parse_losses(std::string_view text, const std::string& where);

using PerplexityOptions = base::LossOptions;
using PerplexityVerdict = base::LossVerdict;

struct PerplexityResult {
  size_t tokens = 0;
  double ppl_base = 0, ppl_test = 0;
  double ratio = 0, low = 0, high = 0;  // ppl_test / ppl_base and its interval
  PerplexityVerdict verdict = PerplexityVerdict::kUndecided;
  // Of kUndecided: about how many tokens an interval that does not contain the margin takes; 0 = no number would do
  // (the difference is the margin).
  size_t tokens_needed = 0;
  double kl_mean = -1;   // nats; -1 = not given for each token
  double same_top = -1;  // share of tokens with the same first choice; -1 = not given
};

// Pure and repeatable. The Error: lists of different texts or lengths, fewer tokens than four blocks, a loss that is
// no number of 0 or more.
base::Result<PerplexityResult> score_perplexity(std::span<const TokenLoss> base_losses,
                                                std::span<const TokenLoss> test_losses,
                                                const PerplexityOptions& options);
base::Json to_json(const PerplexityResult& result);

}  // namespace probes
