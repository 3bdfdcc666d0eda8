#pragma once
// TBQ4_0 (KV only): 4-bit rotated Lloyd-Max codes, one fp16 scale per tile (tbq.h). Page:
//   plane of nibbles [128][head_dim / 2]: units of n = min(32, tile) values; byte b of a unit holds value b
//   low and value b + n / 2 high plane fp16 [128][tiles]
// 66 bytes per row at head_dim 128, 34 at 64.

#include <cstddef>
#include <cstdint>

namespace kernels::tbq4_0 {

size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::tbq4_0
