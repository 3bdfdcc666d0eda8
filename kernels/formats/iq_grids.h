#pragma once
// The codebooks of the IQ2 and IQ3 formats: a code names a point of 8 (IQ2) or 4 (IQ3) magnitudes, each from
// a few levels, and the signs stand apart. Which points there are is part of the formats (ggml's choice).

#include <array>
#include <cstddef>
#include <cstdint>

namespace kernels {

// Magnitude j of a point is byte j, lowest first; none is 0, all are under 64.
extern const std::array<uint64_t, 256> kIq2XxsGrid;
extern const std::array<uint64_t, 512> kIq2XsGrid;
extern const std::array<uint64_t, 1024> kIq2SGrid;
extern const std::array<uint32_t, 256> kIq3XxsGrid;
extern const std::array<uint32_t, 512> kIq3SGrid;

// Eight signs of which seven are stored: the number of minuses is even.
inline uint32_t even_signs(uint32_t seven) {
  const uint32_t folded = (seven ^ seven >> 4) & 15;
  return seven | (0x6996U >> folded & 1) << 7;  // bit n: whether n has an odd number of ones
}
// Those of a part, from 28 bits.
inline uint32_t even_signs_of_four(uint32_t bits) {
  return even_signs(bits & 127) | even_signs(bits >> 7 & 127) << 8 | even_signs(bits >> 14 & 127) << 16 |
         even_signs(bits >> 21 & 127) << 24;
}

// Layout::codes (parts.h) of these formats, whose Layout has
//   magnitudes(block, part, k)  those of values 8k to 8k + 7, a byte each
//   signs(block, part)          bit i: value i is negative
template <class Layout>
void point_codes(const uint8_t* block, int part, int8_t* out) {
  const uint32_t signs = Layout::signs(block, part);
  for (int i = 0; i < 32; ++i) {
    const auto magnitude = static_cast<int8_t>(Layout::magnitudes(block, part, i / 8) >> (i % 8 * 8) & 255);
    out[i] = (signs >> i & 1) != 0 ? static_cast<int8_t>(-magnitude) : magnitude;
  }
}

}  // namespace kernels
