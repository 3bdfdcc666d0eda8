#include "kernels/formats/tcq3_0.h"

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/tcq3_0.cc"
#define KERNELS_FORMAT tcq3_0
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/tcq.h"
#include "kernels/formats/tcq_reader-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::tcq3_0::HWY_NAMESPACE {
using Reader = kernels::HWY_NAMESPACE::TrellisReader<kTrellis3>;
}  // namespace kernels::tcq3_0::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::tcq3_0 {

size_t page_bytes(int head_dim) {
  return trellis_page_bytes(kTrellis3, head_dim);
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  trellis_write_row(kTrellis3, x, head_dim, page, slot);
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  trellis_load_rows(kTrellis3, page, head_dim, slot0, n, out);
}

void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride) {
  if (head_dim % kBlock != 0) {
    score(page, head_dim, slot0, n, query, n_q, scores, score_stride);
    return;
  }
  trellis_score_rounded(kTrellis3, page, head_dim, slot0, n, query, n_q, scores, score_stride);
}

}  // namespace kernels::tcq3_0

#endif  // HWY_ONCE
