#pragma once
// IQ3_S: 256 values in 8 parts, each eight points of kIq3SGrid, with a 4-bit scale s;
// value = d * (2s + 1) * (signed magnitude).
//   fp16 d, 64 bytes: the lower eight bits of the points' numbers, 8 bytes: bit k is the ninth of a part's point
//   k, 32 bytes: the signs, 4 bytes of s, a nibble each, low first (110 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq_grids.h"
#include "kernels/formats/parts.h"

namespace kernels::iq3_s {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 110;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int s = 2 * (block[106 + part / 2] >> (part % 2 * 4) & 15) + 1;
    return {{s, s}};
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* point = block + 2 + 8 * part;
    const unsigned ninth = block[66 + part];
    const auto at = [&](int k) { return kIq3SGrid[point[k] | (ninth >> k & 1) << 8]; };
    for (int k = 0; k < 4; ++k) {
      signed_codes(at(2 * k) | uint64_t{at(2 * k + 1)} << 32, block[74 + 4 * part + k], out + 8 * k);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq3_s
