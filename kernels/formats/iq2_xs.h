#pragma once
// IQ2_XS: 256 values in 8 parts, each four points of kIq2XsGrid, each half part with a 4-bit scale s;
// value = d * (s + 1/2) / 4 * (signed magnitude).
//   fp16 d, 32 x 2 bytes: a point's 9-bit number, above it seven signs (even_signs), 8 bytes of s, a part's first
//   half in the low nibble (74 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq_grids.h"
#include "kernels/formats/parts.h"

namespace kernels::iq2_xs {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 74;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 0.125F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int s = block[66 + part];
    return {{2 * (s & 15) + 1, 2 * (s >> 4) + 1}};
  }
  static uint64_t magnitudes(const uint8_t* block, int part, int k) {
    return kIq2XsGrid[u16_at(block + 2 + 8 * part + 2 * k) & 511];
  }
  static uint32_t signs(const uint8_t* block, int part) {
    const uint8_t* p = block + 3 + 8 * part;
    return even_signs(p[0] >> 1) | even_signs(p[2] >> 1) << 8 | even_signs(p[4] >> 1) << 16 |
           even_signs(p[6] >> 1) << 24;
  }
  static void codes(const uint8_t* block, int part, int8_t* out) { point_codes<Layout>(block, part, out); }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq2_xs
