#pragma once
// Q4_1: blocks of 32 nibbles q; value = d * q + m.
//   fp16 d, fp16 m, 16 bytes: value i in the low nibble of byte i, value i + 16 in the high one (20 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q4_1 {

struct Layout {
  static constexpr int kBlockValues = 32;
  static constexpr int kBlockBytes = 20;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = 2;
  static constexpr float kUnit = 1.0F;
  // A minimum is taken away, m is added.
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}, {-1, -1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    for (int i = 0; i < 16; ++i) {
      out[i] = static_cast<int8_t>(block[4 + i] & 15);
      out[i + 16] = static_cast<int8_t>(block[4 + i] >> 4);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q4_1
