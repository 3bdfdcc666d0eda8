#pragma once
// IQ4_NL: nibbles.h with codes of 4 bits that index 16 unevenly spaced integers; value = d * kValues[q]. The scale
// that puts the value of largest magnitude on the first integer chooses the codes; d is then the least-squares fit to
// them, weighted by x^2. 18 bytes per 32 values.

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/formats/nibbles.h"

namespace kernels::iq4_nl {

// The 16 integers a code stands for.
alignas(16) inline constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                   1,    13,   25,  38,  53,  69,  89,  113};

struct Code {
  static constexpr bool kMin = false;
  alignas(16) static constexpr auto kIntegers = std::to_array(kValues);
  static NibbleScales quantize(const float* x, int n, uint8_t* codes);
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

}  // namespace kernels::iq4_nl
