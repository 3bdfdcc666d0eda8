#pragma once
// The codebooks of the IQ2 and IQ3 formats: a code names a point of 8 (IQ2) or 4 (IQ3) magnitudes, each from
// a few levels, and the signs stand apart. Which points there are is part of the formats (ggml's choice).

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace kernels {

// Magnitude j of a point is byte j, lowest first; none is 0, all are under 64.
extern const std::array<uint64_t, 256> kIq2XxsGrid;
extern const std::array<uint64_t, 512> kIq2XsGrid;
extern const std::array<uint64_t, 1024> kIq2SGrid;
extern const std::array<uint32_t, 256> kIq3XxsGrid;
extern const std::array<uint32_t, 512> kIq3SGrid;

// Eight signs of which seven are stored: the number of minuses is even.
inline unsigned even_signs(unsigned seven) {
  return seven | (std::popcount(seven) % 2U) << 7;
}

// out[j] = magnitude j, negative where bit j of signs is set.
inline void signed_codes(uint64_t magnitudes, unsigned signs, int8_t* out) {
  constexpr uint64_t kOnes = 0x0101010101010101U;
  const uint64_t bits = (signs & 255U) * kOnes & 0x8040201008040201U;  // bit j of byte j
  const uint64_t minus = (bits + 0x7f * kOnes) >> 7 & kOnes;           // 1 in each byte that has it
  const uint64_t codes = (magnitudes ^ minus * 0xff) + minus;          // no carry: no magnitude is 0
  for (int j = 0; j < 8; ++j) {
    out[j] = static_cast<int8_t>(codes >> (8 * j) & 0xff);
  }
}

}  // namespace kernels
