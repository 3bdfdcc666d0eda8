#pragma once
// bfloat16: the upper half of a float32.
//   KV page: plane [128][head_dim], rounded to nearest even; beyond the largest finite value stored as that, NaN kept

#include <cstddef>
#include <cstdint>

namespace kernels::bf16 {

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::bf16
