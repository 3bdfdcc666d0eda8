#pragma once
// Q8_0: blocks of 32 int8 with one fp16 scale d; value = d * q, d = max|x| / 127.
//   weights: fp16 d, int8 q[32] (34 bytes)
//   KV page: plane int8 [128][head_dim], plane fp16 [128][ceil(head_dim / 32)]; the last group may be shorter
// A block with a NaN or an infinity is written as zeros; a scale over 65504 is stored as 65504.

#include <cstddef>
#include <cstdint>

namespace kernels::q8_0 {

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);
void quantize(const float* values, int64_t n, std::byte* row);

size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::q8_0
