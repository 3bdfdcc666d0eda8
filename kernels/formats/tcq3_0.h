#pragma once
// TCQ3_0 (KV only): 3-bit rotated trellis codes, one fp16 scale per tile. Page and code: tcq.h.
// 50 bytes per row at head_dim 128, 26 at 64.

#include <cstddef>
#include <cstdint>

namespace kernels::tcq3_0 {

size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::tcq3_0
