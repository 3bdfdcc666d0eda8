#include "src/engine/token_probs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "src/base/check.h"

namespace engine {

TokenProbs token_probs(std::span<const float> logits, int token, int n_top) {
  AR_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size(), "a token outside the logits");
  const double max = *std::ranges::max_element(logits);
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
  if (n_top == 1) {  // the first of the largest: what the prompts of perplexity ask for, at every token
    out.top.push_back(entry(static_cast<int>(std::ranges::max_element(logits) - logits.begin())));
    return out;
  }
  if (n_top <= 0) {
    return out;
  }
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto n = std::min(logits.size(), static_cast<size_t>(std::max(0, n_top)));
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(), [&](int a, int b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  });
  for (size_t i = 0; i < n; ++i) {
    out.top.push_back(entry(ids[i]));
  }
  return out;
}

}  // namespace engine
