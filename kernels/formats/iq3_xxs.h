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
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* point = block + 2 + 8 * part;
    const uint32_t signs = u32_at(block + 66 + 4 * part);
    for (int k = 0; k < 4; ++k) {
      const uint64_t pair = kIq3XxsGrid[point[2 * k]] | uint64_t{kIq3XxsGrid[point[2 * k + 1]]} << 32;
      signed_codes(pair, even_signs(signs >> (7 * k) & 127), out + 8 * k);
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq3_xxs
