#pragma once
// Q3_K: 256 codes q of 3 bits in 8 parts, each half part with a 6-bit scale s; value = d * (s - 32) * (q - 4).
//   32 bytes: bit `part` of byte i is the top bit of value i, 64 bytes: its lower two bits as in Q2_K, 12 bytes of
//   s: the lower four bits of scales 0-7 in the low nibbles of bytes 0-7, of 8-15 in the high ones, the upper two
//   of scale k in bits 2 * (k / 4) of byte 8 + k % 4, fp16 d (110 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::q3_k {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 110;
  static constexpr int kScaleAt = 108;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    return {{scale(block + 96, 2 * part), scale(block + 96, 2 * part + 1)}};
  }
  static int scale(const uint8_t* s, int k) {
    const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
    return (low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32;
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* q = block + 32 + part / 4 * 32;
    for (int i = 0; i < kPart; ++i) {
      const int low = q[i] >> (part % 4 * 2) & 3;
      out[i] = static_cast<int8_t>((low | (block[i] >> part & 1) << 2) - 4);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q3_k
