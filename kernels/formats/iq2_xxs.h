#pragma once
// IQ2_XXS: 256 values in 8 parts, each four points of kIq2XxsGrid, with a 4-bit scale s;
// value = d * (s + 1/2) / 4 * (signed magnitude).
//   fp16 d, 8 bytes a part: four point numbers, then 32 bits: seven signs of each point (even_signs), lowest
//   first, and s (66 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq_grids.h"
#include "kernels/formats/parts.h"

namespace kernels::iq2_xxs {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 66;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 0.125F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int s = 2 * (block[9 + 8 * part] >> 4) + 1;
    return {{s, s}};
  }
  static uint64_t magnitudes(const uint8_t* block, int part, int k) {
    return kIq2XxsGrid[block[2 + 8 * part + k]];
  }
  static uint32_t signs(const uint8_t* block, int part) {
    return even_signs_of_four(u32_at(block + 6 + 8 * part));
  }
  static void codes(const uint8_t* block, int part, int8_t* out) { point_codes<Layout>(block, part, out); }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq2_xxs
