// The fast half of a KV format: score and accumulate (formats.h) of namespace KERNELS_FORMAT, for every
// instruction set and chosen at run time, made of the Reader (kv_attend-inl.h) that stands in
// KERNELS_FORMAT::HWY_NAMESPACE. A format's .cc defines KERNELS_FORMAT as its namespace, and includes this
// file after its Reader; it is text, so it has no guard.

#include "kernels/formats/kv_attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE {

void score_all(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
               float* scores, int score_stride) {
  kernels::HWY_NAMESPACE::score_page<Reader>(page, head_dim, slot0, n, query, n_q, scores, score_stride);
}
void accumulate_all(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                    int weight_stride, int n_q, float* acc) {
  kernels::HWY_NAMESPACE::accumulate_page<Reader>(page, head_dim, slot0, n, weights, weight_stride, n_q, acc);
}

}  // namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels::KERNELS_FORMAT {

HWY_EXPORT(score_all);
HWY_EXPORT(accumulate_all);

void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride) {
  HWY_DYNAMIC_DISPATCH(score_all)(page, head_dim, slot0, n, query, n_q, scores, score_stride);
}

void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc) {
  HWY_DYNAMIC_DISPATCH(accumulate_all)(page, head_dim, slot0, n, weights, weight_stride, n_q, acc);
}

}  // namespace kernels::KERNELS_FORMAT

#endif  // HWY_ONCE
