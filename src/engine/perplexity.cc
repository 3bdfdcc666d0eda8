#include "src/engine/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace engine {
namespace {

base::Result<void> check(std::span<Context* const> contexts, std::span<const int> tokens,
                         const WindowOptions& options) {
  AR_CHECK(!contexts.empty(), "windows without a context");
  for (const Context* context : contexts) {
    if (options.n_ctx < 4 || options.n_ctx > context->info().n_ctx) {
      return base::error(
          "perplexity",
          fmt::format("windows of {} tokens, but the context has {}", options.n_ctx, context->info().n_ctx),
          "use windows of 4 tokens or more and a context that holds one");
    }
  }
  // The last token of a window is scored but never evaluated: nobody else looks at it.
  const int n_vocab = contexts.front()->model().hp.n_vocab;
  const auto foreign = std::ranges::find_if(tokens, [&](int id) { return id < 0 || id >= n_vocab; });
  if (foreign != tokens.end() || options.bos >= n_vocab) {
    return base::error("perplexity",
                       fmt::format("token {} is outside the model's vocabulary of {}",
                                   foreign != tokens.end() ? *foreign : options.bos, n_vocab),
                       "the tokenizer belongs to another model; download or convert the model again");
  }
  if (count_windows(tokens.size(), options) == 0) {
    return base::error(
        "perplexity",
        fmt::format("the text has {} tokens, less than one window of {}", tokens.size(), options.n_ctx),
        "use a longer text or shorter windows");
  }
  return {};
}

// Empties sequence 0 on every way out.
struct Emptied {
  std::span<Context* const> contexts;
  ~Emptied() {
    for (Context* context : contexts) {
      context->truncate(0, 0);
    }
  }
};

std::vector<int> cut_window(std::span<const int> tokens, const WindowOptions& options, size_t w) {
  const auto n = static_cast<size_t>(options.n_ctx);
  const std::span<const int> cut = tokens.subspan(w * n, n);
  std::vector<int> window(cut.begin(), cut.end());
  if (options.bos >= 0) {
    window.front() = options.bos;
  }
  return window;
}

// One context's turn: window[at, at + n) evaluated, each of these rows visited with the token after it.
base::Result<void> visit_group(std::span<Context* const> contexts, size_t c, std::span<const int> window,
                               size_t at, size_t n, const WindowVisitor& visitor) {
  base::Result<void> seen;
  StepHooks hooks;
  hooks.on_logits = [&](size_t, int row, std::span<const float> logits) {
    if (seen) {
      const auto i = static_cast<size_t>(row);
      seen = visitor.on_row({c, i, window[at + i + 1], logits});
    }
  };
  hooks.gone = [&](size_t) { return !seen; };
  const Piece piece{0, window.subspan(at, n), static_cast<int>(n)};
  if (auto done = contexts[c]->step({&piece, 1}, hooks); !done) {
    return done;
  }
  return seen;
}

base::Result<void> visit_window(std::span<Context* const> contexts, std::span<const int> window,
                                const WindowVisitor& visitor) {
  const size_t first = window.size() / 2, last = window.size() - 1;
  const size_t n_group =
      visitor.n_group > 0 ? visitor.n_group : static_cast<size_t>(contexts.front()->info().n_ubatch);
  for (Context* context : contexts) {
    context->truncate(0, 0);
    const Piece unscored{0, window.first(first), 0};
    if (auto done = context->step({&unscored, 1}, {}); !done) {
      return done;
    }
  }
  // Row i predicts token i + 1; the last row predicts one that is in the next window.
  for (size_t at = first; at < last; at += n_group) {
    for (size_t c = 0; c < contexts.size(); ++c) {
      if (auto seen = visit_group(contexts, c, window, at, std::min(n_group, last - at), visitor); !seen) {
        return seen;
      }
    }
  }
  return {};
}

}  // namespace

base::Result<TokenScore> score_token(std::span<const float> logits, int token) {
  AR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "a token without a logit");
  const auto top = std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(double{logit} - double{*top});
  }
  const double log_sum = std::log(sum) + double{*top};
  const double nll = log_sum - double{logits[static_cast<size_t>(token)]};
  if (!std::isfinite(nll)) {
    return base::error("perplexity", fmt::format("the logits before token {} are not all numbers", token),
                       "the model's weights are damaged; download or convert it again");
  }
  return TokenScore{token, nll, static_cast<int>(top - logits.begin()), log_sum};
}

Perplexity summarize(std::span<const double> nlls) {
  Perplexity out;
  out.tokens = nlls.size();
  if (nlls.empty()) {
    return out;
  }
  double sum = 0, squares = 0;
  for (const double nll : nlls) {
    sum += nll;
    squares += nll * nll;
  }
  const auto n = static_cast<double>(nlls.size());
  const double mean = sum / n, variance = squares / n - mean * mean;
  out.value = std::exp(mean);
  out.error = nlls.size() > 1 && variance > 0 ? out.value * std::sqrt(variance / (n - 1)) : 0;
  return out;
}

size_t count_windows(size_t n_tokens, const WindowOptions& options) {
  const size_t n = n_tokens / static_cast<size_t>(options.n_ctx);
  return options.n_windows > 0 ? std::min(n, static_cast<size_t>(options.n_windows)) : n;
}

base::Result<void> visit_windows(std::span<Context* const> contexts, std::span<const int> tokens,
                                 const WindowOptions& options, const WindowVisitor& visitor) {
  const Emptied emptied{contexts};
  if (auto fine = check(contexts, tokens, options); !fine) {
    return fine;
  }
  const size_t n_windows = count_windows(tokens.size(), options);
  for (size_t w = 0; w < n_windows; ++w) {
    const std::vector<int> window = cut_window(tokens, options, w);
    if (auto seen = visit_window(contexts, window, visitor); !seen) {
      return seen;
    }
    if (visitor.on_window) {
      if (auto seen = visitor.on_window(w, std::span(window).first(window.size() - 1)); !seen) {
        return seen;
      }
    }
  }
  return {};
}

base::Result<std::vector<TokenScore>> score_windows(Context& context, std::span<const int> tokens,
                                                    const WindowOptions& options) {
  std::vector<TokenScore> scores;
  WindowVisitor visitor;
  visitor.on_row = [&](const ScoredRow& row) -> base::Result<void> {
    auto score = score_token(row.logits, row.token);
    if (!score) {
      return score.failure();
    }
    scores.push_back(*score);
    return {};
  };
  Context* const one = &context;
  if (auto done = visit_windows({&one, 1}, tokens, options, visitor); !done) {
    return done.failure();
  }
  return scores;
}

}  // namespace engine
