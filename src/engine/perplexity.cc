#include "src/engine/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace engine {
namespace {

// Logits kept at a time: with a vocabulary of 200,000 a whole window's would be hundreds of megabytes.
constexpr size_t kLogitsBytes = size_t{32} << 20;

base::Result<void> check(const Context& context, std::span<const int> tokens, const WindowOptions& options) {
  if (options.n_ctx < 4 || options.n_ctx > context.info().n_ctx) {
    return base::error(
        "perplexity",
        fmt::format("windows of {} tokens, but the context has {}", options.n_ctx, context.info().n_ctx),
        "use windows of 4 tokens or more and a context that holds one");
  }
  if (tokens.size() / 2 < static_cast<size_t>(options.n_ctx)) {
    return base::error(
        "perplexity",
        fmt::format("the text has {} tokens; two windows of {} are the least", tokens.size(), options.n_ctx),
        "use a longer text or shorter windows");
  }
  return {};
}

// Empties sequence 0 on every way out.
struct Emptied {
  Context& context;
  ~Emptied() { context.truncate(0, 0); }
};

}  // namespace

base::Result<TokenScore> score_token(std::span<const float> logits, int token) {
  AR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "a token without a logit");
  const auto top = std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(double{logit} - double{*top});
  }
  const double nll = std::log(sum) + double{*top} - double{logits[static_cast<size_t>(token)]};
  if (!std::isfinite(nll)) {
    return base::error("perplexity", fmt::format("the logits before token {} are not all numbers", token),
                       "the model's weights are damaged; download or convert it again");
  }
  return TokenScore{token, nll, static_cast<int>(top - logits.begin())};
}

Perplexity summarize(std::span<const TokenScore> scores) {
  Perplexity out;
  out.tokens = scores.size();
  if (scores.empty()) {
    return out;
  }
  double sum = 0, squares = 0;
  for (const TokenScore& score : scores) {
    sum += score.nll;
    squares += score.nll * score.nll;
  }
  const auto n = static_cast<double>(scores.size());
  const double mean = sum / n, variance = squares / n - mean * mean;
  out.value = std::exp(mean);
  out.error = scores.size() > 1 && variance > 0 ? out.value * std::sqrt(variance / (n - 1)) : 0;
  return out;
}

base::Result<void> visit_windows(Context& context, std::span<const int> tokens, const WindowOptions& options,
                                 const VisitRow& visit) {
  const Emptied emptied{context};
  if (auto fine = check(context, tokens, options); !fine) {
    return fine;
  }
  const auto n_ctx = static_cast<size_t>(options.n_ctx);
  const size_t first = n_ctx / 2, n_vocab = static_cast<size_t>(context.model().hp.n_vocab);
  const size_t rows = std::clamp<size_t>(kLogitsBytes / (n_vocab * sizeof(float)), 1,
                                         static_cast<size_t>(context.info().n_ubatch));
  size_t n_windows = tokens.size() / n_ctx;
  if (options.n_windows > 0) {
    n_windows = std::min(n_windows, static_cast<size_t>(options.n_windows));
  }
  std::vector<float> logits;
  for (size_t w = 0; w < n_windows; ++w) {
    std::vector<int> window(tokens.begin() + static_cast<std::ptrdiff_t>(w * n_ctx),
                            tokens.begin() + static_cast<std::ptrdiff_t>((w + 1) * n_ctx));
    if (options.bos >= 0) {
      window.front() = options.bos;
    }
    const std::span<const int> all(window);
    context.truncate(0, 0);
    if (auto done = context.eval(0, all.first(first)); !done) {
      return done.failure();
    }
    // Row i predicts token i + 1; the last row predicts one that is in the next window.
    for (size_t at = first; at + 1 < n_ctx; at += rows) {
      const size_t n = std::min(rows, n_ctx - 1 - at);
      logits.clear();
      if (auto done = context.eval_all(0, all.subspan(at, n), logits); !done) {
        return done;
      }
      for (size_t i = 0; i < n; ++i) {
        if (auto seen = visit(all[at + i + 1], std::span(logits).subspan(i * n_vocab, n_vocab)); !seen) {
          return seen;
        }
      }
    }
  }
  return {};
}

base::Result<std::vector<TokenScore>> score_windows(Context& context, std::span<const int> tokens,
                                                    const WindowOptions& options) {
  std::vector<TokenScore> scores;
  const auto visit = [&](int token, std::span<const float> logits) -> base::Result<void> {
    auto score = score_token(logits, token);
    if (!score) {
      return score.failure();
    }
    scores.push_back(*score);
    return {};
  };
  if (auto done = visit_windows(context, tokens, options, visit); !done) {
    return done.failure();
  }
  return scores;
}

}  // namespace engine
