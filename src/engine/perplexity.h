#pragma once
// Perplexity of a text by llama-perplexity's protocol, so that figures compare: the tokens are cut into windows of
// n_ctx, each begins afresh with BOS in place of its first token where the vocabulary adds one, and each token of its
// second half is scored but for the first of it: n_ctx - n_ctx/2 - 1 per window. What is left over is not read.

#include <functional>
#include <span>
#include <vector>

#include "src/base/error.h"
#include "src/engine/context.h"

namespace engine {

struct TokenScore {
  int token = 0;
  double nll = 0;  // -ln of the probability the model gave it
  int top = 0;     // the id it would have chosen
};

// Pure, accumulating in double. `token` is within the logits. An Error when a logit is no number.
base::Result<TokenScore> score_token(std::span<const float> logits, int token);

struct Perplexity {
  double value = 0;  // exp(mean nll)
  double error = 0;  // standard error of `value`, as llama-perplexity states it
  size_t tokens = 0;
};
Perplexity summarize(std::span<const TokenScore> scores);

struct WindowOptions {
  int n_ctx = 512;    // of a window; at least 4, at most the context's
  int n_windows = 0;  // the first so many; 0 = all
  int bos = -1;       // Tokenizer::bos() where adds_bos(), else -1
};

// Calls `visit` for each scored token in order, with the logits that predicted it (valid during the call). Uses
// sequence 0 and leaves it empty, after an error too. Errors: a text shorter than two windows, as llama-perplexity refuses it, windows
// beyond the context, whatever evaluating or `visit` gives.
using VisitRow = std::function<base::Result<void>(int token, std::span<const float> logits)>;
base::Result<void> visit_windows(Context& context, std::span<const int> tokens, const WindowOptions& options,
                                 const VisitRow& visit);

// visit_windows() with score_token().
base::Result<std::vector<TokenScore>> score_windows(Context& context, std::span<const int> tokens,
                                                    const WindowOptions& options);

}  // namespace engine
