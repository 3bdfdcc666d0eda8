#pragma once
// IQ3_XXS: 256 values in 8 parts, each eight points of kIq3XxsGrid, with a 4-bit scale s;
// value = d * (s + 1/2) / 2 * (signed magnitude).
//   fp16 d, 64 point numbers, 32 bits a part: seven signs of each pair of points (even_signs), lowest first,
//   and s (98 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq_grids.h"
#include "kernels/formats/parts.h"

namespace kernels::iq3_xxs {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 98;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 0.25F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int s = 2 * (block[69 + 4 * part] >> 4) + 1;
    return {{s, s}};
  }
  static uint64_t magnitudes(const uint8_t* block, int part, int k) {
    const uint8_t* point = block + 2 + 8 * part + 2 * k;
    return kIq3XxsGrid[point[0]] | uint64_t{kIq3XxsGrid[point[1]]} << 32;
  }
  static uint32_t signs(const uint8_t* block, int part) {
    return even_signs_of_four(u32_at(block + 66 + 4 * part));
  }
  static void codes(const uint8_t* block, int part, int8_t* out) { point_codes<Layout>(block, part, out); }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq3_xxs
