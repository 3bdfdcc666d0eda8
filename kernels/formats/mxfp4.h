#pragma once
// MXFP4 (OCP microscaling): blocks of 32 floats of 4 bits under one power of two, e; value = 2^(e - 127) * q.
//   1 byte e, 16 bytes: value i in the low nibble of byte i, value i + 16 in the high one (17 bytes)

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/formats/parts.h"

namespace kernels::mxfp4 {

// The 16 values of a code (sign, two bits of exponent, one of mantissa), doubled.
alignas(16) inline constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct Layout {
  static constexpr int kBlockValues = 32;
  static constexpr int kBlockBytes = 17;
  static constexpr int kMinAt = -1;
  static constexpr float kUnit = 1.0F;
  // 2^(e - 128): half the block's factor, for the doubled values. Under 2^-126 it is subnormal.
  static float factor(const uint8_t* block) {
    const uint32_t e = block[0];
    return std::bit_cast<float>(e < 2 ? 0x200000U << e : (e - 1) << 23);
  }
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    const uint8_t* q = block + 1;
    for (int i = 0; i < 16; ++i) {
      out[i] = kDoubled[q[i] & 15];
      out[i + 16] = kDoubled[q[i] >> 4];
    }
  }
};

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::mxfp4
