#pragma once
// Weight formats whose blocks are cut into parts of 32 values: each value is a small integer, its code, times
// a scale, minus a minimum where the format has them. A format describes its block in a Layout, a struct with
//   kBlockValues, kBlockBytes
//   kScaleAt                  where the block's fp16 factor of scales stands; a format without one has
//                             factor(block) instead
//   kMinAt                    where the fp16 factor of minimums stands; -1: the format has none
//   kUnit                     what an integer multiplier of the scale counts in
//   multipliers(block, part)  the integers that belong to the part's two halves of 16 values
//   codes(block, part, out)   the part's 32 codes
// and is then, value by value, (d * kUnit * multiplier) * code - dmin * multiplier. All three products are
// exact in float32 for every format here, so that no order of evaluation and no fused operation changes a bit.

#include <cstdint>

#include "kernels/formats/half.h"

namespace kernels {

inline constexpr int kPart = 32;

struct Multipliers {
  int scale[2];         // of values 0-15 and 16-31 of the part
  int min[2] = {0, 0};  // ignored where kMinAt is -1
};

inline uint16_t u16_at(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
inline uint32_t u32_at(const uint8_t* p) {
  return u16_at(p) | uint32_t{u16_at(p + 2)} << 16;
}

// The specification of dequantize (formats.h) for such a format.
template <class Layout>
void dequantize_parts(const uint8_t* row, int64_t n, float* out) {
  for (int64_t begin = 0; begin < n; begin += Layout::kBlockValues, row += Layout::kBlockBytes) {
    float d = 0.0F;
    if constexpr (requires { Layout::factor(row); }) {
      d = Layout::factor(row);
    } else {
      d = f32_from_f16(u16_at(row + Layout::kScaleAt));
    }
    for (int part = 0; part < Layout::kBlockValues / kPart; ++part, out += kPart) {
      const Multipliers m = Layout::multipliers(row, part);
      int8_t codes[kPart];
      Layout::codes(row, part, codes);
      for (int i = 0; i < kPart; ++i) {
        const int sixteenth = i / 16;
        out[i] = d * (static_cast<float>(m.scale[sixteenth]) * Layout::kUnit) * static_cast<float>(codes[i]);
        if constexpr (Layout::kMinAt >= 0) {
          out[i] -= f32_from_f16(u16_at(row + Layout::kMinAt)) * static_cast<float>(m.min[sixteenth]);
        }
      }
    }
  }
}

}  // namespace kernels
