#pragma once
// Q5_1: blocks of 32 codes q of 5 bits; value = d * q + m.
//   fp16 d, fp16 m, 4 bytes: bit i is the top bit of value i, 16 bytes: the lower four bits of value i in the low
//   nibble of byte i, of value i + 16 in the high one (24 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q5_1 {

struct Layout {
  static constexpr int kBlockValues = 32;
  static constexpr int kBlockBytes = 24;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = 2;
  static constexpr float kUnit = 1.0F;
  // A minimum is taken away, m is added.
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}, {-1, -1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    const uint32_t top = u32_at(block + 4);
    for (int i = 0; i < kPart; ++i) {
      const uint8_t byte = block[8 + i % 16];
      const int low = i < 16 ? byte & 15 : byte >> 4;
      out[i] = static_cast<int8_t>((low | static_cast<int>(top >> i & 1) << 4));
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q5_1
