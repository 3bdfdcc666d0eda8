#include "src/engine/token_probs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/check.h"

namespace engine {

std::optional<TokenProbs> token_probs(std::span<const float> logits, int token, int n_top) {
  AR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "a token outside the logits");
  const auto better = [&](int a, int b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  // One pass for the maximum and the likeliest, a heap with the worst of them on top: an echoed prompt comes here
  // with every token of it.
  const auto n = std::min(logits.size(), static_cast<size_t>(std::max(1, n_top)));
  std::vector<int> top;
  top.reserve(n);
  float worst = -std::numeric_limits<float>::infinity();  // of a full heap
  bool numbers = true;
  for (size_t i = 0; i < logits.size(); ++i) {
    numbers &= logits[i] <= std::numeric_limits<float>::max();
    if (top.size() == n && !(logits[i] > worst)) {
      continue;  // of equals the earlier one is the better
    }
    if (top.size() == n) {
      std::ranges::pop_heap(top, better);
      top.pop_back();
    }
    top.push_back(static_cast<int>(i));
    std::ranges::push_heap(top, better);
    worst = logits[static_cast<size_t>(top.front())];
  }
  std::ranges::sort_heap(top, better);
  const double max = logits[static_cast<size_t>(top.front())];
  if (!numbers || !std::isfinite(max)) {
    return std::nullopt;
  }
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(logit - max);
  }
  const double log_sum = std::log(sum);
  const auto entry = [&](int id) {
    return TokenProbs::Entry{id, static_cast<float>(logits[static_cast<size_t>(id)] - max - log_sum)};
  };
  TokenProbs out;
  out.drawn = entry(token);
  for (size_t i = 0; n_top > 0 && i < top.size(); ++i) {
    out.top.push_back(entry(top[i]));
  }
  return out;
}

}  // namespace engine
