#pragma once
// IQ4_XS: 256 values in 8 parts, the codes as in IQ4_NL, each part with a 6-bit scale s;
// value = d * (s - 32) * kValues[q].
//   fp16 d, 2 bytes: the upper two bits of part p's s at bit 2p, 4 bytes: its lower four, a nibble each, low first,
//   128 bytes: 16 of nibbles for each part, laid out as in IQ4_NL (136 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/iq4_nl.h"
#include "kernels/formats/parts.h"

namespace kernels::iq4_xs {

struct Layout {
  static constexpr int kBlockValues = 256;
  static constexpr int kBlockBytes = 136;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* block, int part) {
    const int low = block[4 + part / 2] >> (part % 2 * 4) & 15;
    const int s = (low | (u16_at(block + 2) >> (2 * part) & 3) << 4) - 32;
    return {{s, s}};
  }
  static void codes(const uint8_t* block, int part, int8_t* out) {
    const uint8_t* q = block + 8 + 16 * part;
    for (int i = 0; i < 16; ++i) {
      out[i] = iq4_nl::kValues[q[i] & 15];
      out[i + 16] = iq4_nl::kValues[q[i] >> 4];
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq4_xs
