#pragma once
// Q6_K: 256 codes q of 6 bits in 8 parts, each half part with a signed 8-bit scale s; value = d * s * (q - 32).
//   128 bytes: the lower four bits of value i of parts 0 and 2 in the nibbles of byte i (low, high), of parts 1 and
//   3 in those of byte 32 + i, 64 bytes: the upper two of parts 0-3 in bits 2 * part of byte i; parts 4-7 follow
//   likewise, 64 and 32 bytes on; 16 bytes of s, fp16 d (210 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q6_k {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 210;
  static constexpr int kScaleAt = 208;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const uint8_t* s = block + 192 + 2 * part;
    return {{static_cast<int8_t>(s[0]), static_cast<int8_t>(s[1])}};
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* low = low_at(block, part);
    const uint8_t* top = top_at(block, part);
    for (int i = 0; i < kPart; ++i) {
      const int q = (low[i] >> low_shift(part) & 15) | (top[i] >> (part % 4 * 2) & 3) << 4;
      out[i] = static_cast<int8_t>(q - 32);
    }
  }
  static const uint8_t* low_at(const uint8_t* block, int part) {
    return block + part / 4 * 64 + part % 2 * 32;
  }
  static int low_shift(int part) { return part % 4 / 2 * 4; }
  static const uint8_t* top_at(const uint8_t* block, int part) { return block + 128 + part / 4 * 32; }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q6_k
