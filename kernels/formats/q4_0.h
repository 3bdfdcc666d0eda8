#pragma once
// Q4_0: nibbles.h with codes of 4 bits; value = d * (q - 8), d = (the x of largest |x|) / -8. 18 bytes per 32 values.

#include <cstddef>
#include <cstdint>

#include "kernels/formats/nibbles.h"

namespace kernels::q4_0 {

struct Code {
  static constexpr bool kMin = false;
  alignas(16) static constexpr auto kIntegers = integers_from<16>(-8);
  static NibbleScales quantize(const float* x, int n, uint8_t* codes) {
    return round_about_zero(x, n, 8, codes);
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);
void quantize(const float* values, int64_t n, std::byte* row);

size_t page_bytes(int head_dim);
void write_row(const float* x, int head_dim, std::byte* page, int slot);
void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out);
void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride);
void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride);
void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc);

}  // namespace kernels::q4_0
