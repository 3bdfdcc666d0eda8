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
  static uint64_t magnitudes(const uint8_t* block, int part, int k) {
    const uint8_t* point = block + 2 + 8 * part + 2 * k;
    const unsigned ninth = block[66 + part] >> (2 * k);
    return kIq3SGrid[point[0] | (ninth & 1) << 8] | uint64_t{kIq3SGrid[point[1] | (ninth & 2) << 7]} << 32;
  }
  static uint32_t signs(const uint8_t* block, int part) { return u32_at(block + 74 + 4 * part); }
  static void codes(const uint8_t* block, int part, int8_t* out) { point_codes<Layout>(block, part, out); }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq3_s
