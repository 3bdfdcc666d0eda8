#include "kernels/formats/q4_0.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q4_0.cc"
#define KERNELS_FORMAT q4_0
#include "kernels/each_target.h"
#include "kernels/formats/nibbles_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::q4_0 {

void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride) {
  (head_dim % kBlock == 0 ? score_nibbles<Code> : score)(page, head_dim, slot0, n, query, n_q, scores,
                                                         score_stride);
}

}  // namespace kernels::q4_0

#endif  // HWY_ONCE
