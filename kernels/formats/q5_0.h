#pragma once
// Q5_0: blocks of 32 codes q of 5 bits; value = d * (q - 16).
//   fp16 d, 4 bytes: bit i is the top bit of value i, 16 bytes: the lower four bits of value i in the low nibble
//   of byte i, of value i + 16 in the high one (22 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q5_0 {

struct Layout {
  static constexpr int kBlockValues = 32;
  static constexpr int kBlockBytes = 22;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    const uint32_t top = u32_at(block + 2);
    for (int i = 0; i < kPart; ++i) {
      const uint8_t byte = block[6 + i % 16];
      const int low = i < 16 ? byte & 15 : byte >> 4;
      out[i] = static_cast<int8_t>((low | static_cast<int>(top >> i & 1) << 4) - 16);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q5_0
