#pragma once
// IQ4_NL: blocks of 32 nibbles that index 16 unevenly spaced values; value = d * kValues[q].
//   fp16 d, 16 bytes: value i in the low nibble of byte i, value i + 16 in the high one (18 bytes)

#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::iq4_nl {

// The 16 values a code stands for.
alignas(16) inline constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                   1,    13,   25,  38,  53,  69,  89,  113};

struct Layout {
  static constexpr int kBlockValues = 32;
  static constexpr int kBlockBytes = 18;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    const uint8_t* q = block + 2;
    for (int i = 0; i < 16; ++i) {
      out[i] = kValues[q[i] & 15];
      out[i + 16] = kValues[q[i] >> 4];
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::iq4_nl
