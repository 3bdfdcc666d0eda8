#pragma once
// Q2_K: 256 codes q of 2 bits in 8 parts, each half part with a scale s and a minimum m of 4 bits;
// value = d * s * q - dmin * m.
//   16 bytes: s (low nibble) and m (high) of each 16 values, 64 bytes: value i of parts 0-3 in bits 2 * part of
//   byte i, parts 4-7 in the next 32 bytes, fp16 d, fp16 dmin (84 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q2_k {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 84;
  static constexpr int kScaleAt = 80;
  static constexpr int kMinAt = 82;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const uint8_t* s = block + 2 * part;
    return {{s[0] & 15, s[1] & 15}, {s[0] >> 4, s[1] >> 4}};
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* q = block + 16 + part / 4 * 32;
    for (int i = 0; i < kPart; ++i) {
      out[i] = static_cast<int8_t>(q[i] >> (part % 4 * 2) & 3);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q2_k
