#pragma once
// TBQ3_0 (KV only): 3-bit rotated Lloyd-Max codes, one fp16 scale per tile (tbq.h). Page:
//   plane of the low two bits [128][head_dim / 4]: units of n = min(32, tile) values; byte b of a unit holds
//   values b, b + n / 4, b + n / 2 and b + 3n / 4, lowest bits first plane of the third bit [128][head_dim /
//   8]: value i is bit i % 8 of byte i / 8 plane fp16 [128][tiles]
// 50 bytes per row at head_dim 128, 26 at 64.

#include <cstddef>
#include <cstdint>

namespace kernels::tbq3_0 {

// Offsets of the second and third plane.
size_t high_plane(int head_dim);
size_t scale_plane(int head_dim);
size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::tbq3_0
