#pragma once
// Random blocks of any weight format.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/formats/formats.h"
#include "kernels/formats/half.h"
#include "tests/kernels/random_rows.h"

namespace kernels::testing {

inline void random_bytes(std::byte* begin, size_t n, std::mt19937& random) {
  for (size_t i = 0; i < n; ++i) {
    begin[i] = static_cast<std::byte>(random());
  }
}

// Whether the largest value of a block is finite, over `least` and below 50.
inline bool fit(const WeightFormat& format, const std::byte* block, float least) {
  std::vector<float> values(format.block_values);
  format.dequantize(block, format.block_values, values.data());
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::isfinite(value) ? std::max(largest, std::fabs(value)) : HUGE_VALF;
  }
  return largest > least && largest < 50.0F;
}

// n values (whole blocks) of about unit size: quantized where the project can; the upper bytes of floats where
// values stand alone; else blocks of random bytes, drawn again until their largest value is finite and neither
// tiny nor huge. Every bit of such a block but the exponents of its factors is free.
inline void random_row(const WeightFormat& format, int64_t n, std::mt19937& random, std::byte* row) {
  if (format.quantize != nullptr || format.block_values == 1) {
    const std::vector<float> values = rough(n, random());
    if (format.quantize != nullptr) {
      format.quantize(values.data(), n, row);
      return;
    }
    for (int64_t i = 0; i < n; ++i) {  // f32 whole, bf16 its upper half
      const auto* upper = reinterpret_cast<const std::byte*>(values.data() + i) + 4 - format.block_bytes;
      std::memcpy(row + i * format.block_bytes, upper, format.block_bytes);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += format.block_values, row += format.block_bytes) {
    do {
      random_bytes(row, format.block_bytes, random);
    } while (!fit(format, row, 0.05F));
  }
}

// As random_row, but blocks have any codes, those that quantize() never writes (-128 in Q8_0) too.
inline void any_row(const WeightFormat& format, int64_t n, std::mt19937& random, std::byte* row) {
  if (format.quantize == nullptr || format.block_values == 1) {
    random_row(format, n, random, row);
    return;
  }
  for (int64_t i = 0; i < n; i += format.block_values, row += format.block_bytes) {
    do {  // a minimum may stand behind the scale
      random_bytes(row, format.block_bytes, random);
      store_unaligned(row, f16_from_f32(static_cast<float>(random() % 2000) * 1e-5F - 0.01F));
    } while (!fit(format, row, -1.0F));
  }
}

}  // namespace kernels::testing
