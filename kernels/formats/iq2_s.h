#pragma once
// IQ2_S: 256 values in 8 parts, each four points of kIq2SGrid, each half part with a 4-bit scale s;
// value = d * (s + 1/2) / 4 * (signed magnitude).
//   fp16 d, 32 bytes: the lower eight bits of the points' numbers, 32 bytes: their signs, 8 bytes: the upper two bits
//   of the numbers of a part, 8 bytes of s, a part's first half in the low nibble (82 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq_grids.h"
#include "kernels/formats/parts.h"

namespace kernels::iq2_s {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 82;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 0.125F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int s = block[74 + part];
    return {{2 * (s & 15) + 1, 2 * (s >> 4) + 1}};
  }
  static uint64_t magnitudes(const uint8_t* block, int part, int k) {
    const unsigned upper = block[66 + part] >> (2 * k) & 3;
    return kIq2SGrid[block[2 + 4 * part + k] | upper << 8];
  }
  static uint32_t signs(const uint8_t* block, int part) { return u32_at(block + 34 + 4 * part); }
  static void codes(const uint8_t* block, int part, int8_t* out) { point_codes<Layout>(block, part, out); }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq2_s
