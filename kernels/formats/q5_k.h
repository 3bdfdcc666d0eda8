#pragma once
// Q5_K: as Q4_K, with codes q of 5 bits.
//   fp16 d, fp16 dmin, 12 bytes of s and m, 32 bytes: bit `part` of byte i is the top bit of value i, 128 bytes: its
//   lower four bits as in Q4_K (176 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"
#include "kernels/formats/q4_k.h"

namespace kernels::q5_k {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 176;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = 2;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    return q4_k::Layout::scale_and_min(block + 4, part);
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* q = block + 48 + part / 2 * 32;
    for (int i = 0; i < kPart; ++i) {
      const int low = q[i] >> (part % 2 * 4) & 15;
      out[i] = static_cast<int8_t>(low | (block[16 + i] >> part & 1) << 4);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::q5_k
