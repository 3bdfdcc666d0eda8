#pragma once
// Choosing the experts of a row in a mixture of experts, and mixing what they give. Deterministic: ties go to
// the expert of the lower index, and every result depends on its own row alone. The scalar reference of each is
// kernels::ref::NAME, in double.

#include <cstdint>

namespace kernels {

enum class Gating { kSoftmax, kSigmoid };  // the probability of an expert: over all logits, or each by itself

struct Router {
  Gating gating = Gating::kSoftmax;
  int n_expert = 0, n_used = 0;  // 1 <= n_used <= n_expert
  const float* bias = nullptr;  // (n_expert), added to the probabilities for the choice alone; may be nullptr
  bool normalize = true;        // weights divided by their sum (by at least 2^-14)
  float scale = 1;              // of the weights, after that
};

// The n_used experts of largest probability + bias, in descending order, into chosen[]; their probabilities
// without the bias into weights[], normalised and scaled. logits (n_expert) are replaced by the probabilities.
// What is no number is never preferred to one that is.
void route(const Router& router, float* logits, int* chosen, float* weights);

// y[i] += sum over j ascending of weights[j] * rows[at[j] * stride + i], for i in [0, n) and j in [0, k). The
// sum starts from zero; the value of each i does not depend on n. at = nullptr: 0, 1, 2, ...
void mix(const float* rows, int64_t stride, const int* at, const float* weights, int k, int n, float* y);

namespace ref {
void route(const Router& router, float* logits, int* chosen, float* weights);
void mix(const float* rows, int64_t stride, const int* at, const float* weights, int k, int n, float* y);
}  // namespace ref

}  // namespace kernels
