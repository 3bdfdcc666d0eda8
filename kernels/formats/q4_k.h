#pragma once
// Q4_K: 256 nibbles q in 8 parts, each with a scale s and a minimum m of 6 bits; value = d * s * q - dmin * m.
//   fp16 d, fp16 dmin, 12 bytes of s and m, 128 bytes: value i of part 2k in the low nibble of byte 32k + i, of
//   part 2k + 1 in the high one (144 bytes)
// The 12 bytes: s of parts 0-3 in the lower six bits of bytes 0-3, their m in those of bytes 4-7; byte 8 + j has
// the lower four bits of s (low nibble) and m (high) of part 4 + j, whose upper two bits stand above the six of
// bytes j and 4 + j.

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q4_k {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 144;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = 2;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) { return scale_and_min(block + 4, part); }
  static Multipliers scale_and_min(const uint8_t* p, int part) {
    int s = p[part] & 63;
    int m = p[part + 4] & 63;
    if (part >= 4) {
      s = (p[part + 4] & 15) | p[part - 4] >> 6 << 4;
      m = p[part + 4] >> 4 | p[part] >> 6 << 4;
    }
    return {{s, s}, {m, m}};
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* q = block + 16 + part / 2 * 32;
    for (int i = 0; i < kPart; ++i) {
      out[i] = static_cast<int8_t>(q[i] >> (part % 2 * 4) & 15);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q4_k
