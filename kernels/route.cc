#include "kernels/route.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ops.h"
#include "src/base/check.h"

namespace kernels {
namespace {

// Under this the sum of the weights is not divided by: the smallest normal number of float16, as llama.cpp has
// it.
constexpr float kLeastSum = 0x1p-14F;

void probabilities(const Router& router, float* logits) {
  if (router.gating == Gating::kSoftmax) {
    const float sum = exp_sum(logits, router.n_expert, reduce_max(logits, router.n_expert));
    scale(logits, 1 / sum, router.n_expert);
    return;
  }
  for (int i = 0; i < router.n_expert; ++i) {
    logits[i] = 1 / (1 + std::exp(-logits[i]));
  }
}

}  // namespace

void route(const Router& router, float* logits, int* chosen, float* weights) {
  AR_CHECK(1 <= router.n_used && router.n_used <= router.n_expert, "experts to choose");
  probabilities(router, logits);
  // The best so far are kept sorted; weights[] holds their scores until the choice is made.
  int n = 0;
  for (int i = 0; i < router.n_expert; ++i) {
    float score = router.bias == nullptr ? logits[i] : logits[i] + router.bias[i];
    score = std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
    if (n == router.n_used && !(score > weights[n - 1])) {
      continue;
    }
    n = std::min(n + 1, router.n_used);
    int place = n - 1;
    for (; place > 0 && score > weights[place - 1]; --place) {
      weights[place] = weights[place - 1];
      chosen[place] = chosen[place - 1];
    }
    weights[place] = score;
    chosen[place] = i;
  }
  float sum = 0;
  for (int j = 0; j < router.n_used; ++j) {
    weights[j] = logits[chosen[j]];
    sum += weights[j];
  }
  const float factor = router.scale / (router.normalize ? std::max(sum, kLeastSum) : 1.0F);
  for (int j = 0; j < router.n_used; ++j) {
    weights[j] *= factor;
  }
}

namespace ref {

void route(const Router& router, float* logits, int* chosen, float* weights) {
  double largest = -std::numeric_limits<double>::infinity(), total = 0;
  for (int i = 0; i < router.n_expert; ++i) {
    largest = std::max(largest, double{logits[i]});
  }
  for (int i = 0; i < router.n_expert; ++i) {
    total += std::exp(double{logits[i]} - largest);
  }
  for (int i = 0; i < router.n_expert; ++i) {
    const double x = logits[i];
    logits[i] = static_cast<float>(router.gating == Gating::kSoftmax ? std::exp(x - largest) / total
                                                                     : 1 / (1 + std::exp(-x)));
  }
  const auto score = [&](int i) { return logits[i] + (router.bias == nullptr ? 0.0F : router.bias[i]); };
  double sum = 0;
  for (int j = 0; j < router.n_used; ++j) {
    int best = -1;
    for (int i = 0; i < router.n_expert; ++i) {
      const bool taken = std::find(chosen, chosen + j, i) != chosen + j;
      if (!taken && (best < 0 || score(i) > score(best))) {
        best = i;
      }
    }
    chosen[j] = best;
    sum += logits[best];
  }
  for (int j = 0; j < router.n_used; ++j) {
    const double p = logits[chosen[j]];
    weights[j] =
        static_cast<float>(router.scale * p / (router.normalize ? std::max(sum, double{kLeastSum}) : 1.0));
  }
}

void mix(const float* rows, int64_t stride, const int* at, const float* weights, int k, int n, float* y) {
  for (int i = 0; i < n; ++i) {
    double sum = 0;
    for (int j = 0; j < k; ++j) {
      sum += double{weights[j]} * double{rows[(at == nullptr ? j : at[j]) * stride + i]};
    }
    y[i] = static_cast<float>(y[i] + sum);
  }
}

}  // namespace ref

}  // namespace kernels
