#pragma once
// Perplexity of a text by llama-perplexity's protocol, so that figures compare: the tokens are cut into windows of
// n_ctx, each begins afresh with BOS in place of its first token where the vocabulary adds one, and each token of its
// second half is scored but for the first of it: n_ctx - n_ctx/2 - 1 per window. What is left over is not read.
// Several contexts (one model, other caches) can go over the text together, window by window.

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
  double log_sum =
      0;  // ln of the sum of exp(logits): what is taken from a logit to make it a log-probability
};

// Pure, accumulating in double. `token` is within the logits. An Error when a logit is no number.
base::Result<TokenScore> score_token(std::span<const float> logits, int token);

struct Perplexity {
  double value = 0;  // exp(mean nll)
  double error = 0;  // standard error of `value`, as llama-perplexity states it
  size_t tokens = 0;
};
Perplexity summarize(std::span<const double> nlls);

struct WindowOptions {
  int n_ctx = 512;    // of a window; at least 4, at most the contexts'
  int n_windows = 0;  // the first so many; 0 = all
  int bos = -1;       // Tokenizer::bos() where adds_bos(), else -1
};

// How many windows of the text these options take.
size_t count_windows(size_t n_tokens, const WindowOptions& options);
// Tokens of a window that are scored.
constexpr int scored_tokens(int n_ctx) {
  return n_ctx - n_ctx / 2 - 1;
}

// A scored token as one context saw it.
struct ScoredRow {
  size_t context = 0;
  // In its group: the contexts see a group of at most n_group tokens one after the other, so what the first said of them
  // is to be kept only that long.
  size_t row = 0;
  int token = 0;
  std::span<const float> logits;  // that predicted it; valid during the call
};
struct WindowVisitor {
  size_t n_group = 0;  // 0 = a ubatch of the first context
  std::function<base::Result<void>(const ScoredRow& row)> on_row;
  // After each window; may be empty. Every context holds `held`, the window's tokens but the last, and may be cut
  // back and appended to.
  std::function<base::Result<void>(size_t window, std::span<const int> held)> on_window;
};

// Calls the visitor for each scored token, in order for each context. Uses sequence 0 and leaves it empty, after an
// error too. Errors: a text shorter than a window, windows beyond a context, whatever evaluating or the visitor gives.
base::Result<void> visit_windows(std::span<Context* const> contexts, std::span<const int> tokens,
                                 const WindowOptions& options, const WindowVisitor& visitor);

// visit_windows() of one context with score_token().
base::Result<std::vector<TokenScore>> score_windows(Context& context, std::span<const int> tokens,
                                                    const WindowOptions& options);

}  // namespace engine
