#pragma once
// What TBQ4_0 and TBQ3_0 share: a tile's encoding. z = rotated tile, u = z * sqrt(d) / ||z||, code = the
// nearest of the grid's centroids (int8, so that scores can be integer dots), scale = <z, c> / <c, c>: least
// squares, 1.3-1.9% less error than storing the norm at the same bytes (facts: paper arXiv 2504.19874,
// section 3).
//
// A tile with a NaN or an infinity, and one too small for an fp16 scale, is stored as zeros; a scale over
// 65504 is stored as 65504.

#include <array>
#include <cstdint>

namespace kernels {

// A symmetric grid of 2 * kHalf centroids. Code c < kHalf is -positive[kHalf - 1 - c], code c >= kHalf is
// positive[c - kHalf]: ascending.
struct TbqGrid {
  int half;
  const int8_t* positive;  // [half], ascending; the Lloyd-Max centroids of N(0, 1) times unit
  float unit;
};

// tbq4_0: 0.1284 0.3880 0.6568 0.9423 1.2562 1.6180 2.0690 2.7326, tbq3_0: 0.2451 0.7560 1.3439 2.1519.
inline constexpr std::array<int8_t, 8> kTbq4Positive = {6, 18, 31, 44, 58, 75, 96, 127};
inline constexpr std::array<int8_t, 4> kTbq3Positive = {14, 45, 79, 127};
inline constexpr TbqGrid kTbq4Grid = {8, kTbq4Positive.data(), 127.0F / 2.7326F};
inline constexpr TbqGrid kTbq3Grid = {4, kTbq3Positive.data(), 127.0F / 2.1519F};

// The centroid of every code: value = scale * centroid[code], exact in float.
inline constexpr int8_t tbq_centroid(const TbqGrid& grid, int code) {
  return code < grid.half ? static_cast<int8_t>(-grid.positive[grid.half - 1 - code])
                          : grid.positive[code - grid.half];
}

// The same as tables of 16 bytes, a byte shuffle's operand; TBQ3_0 uses half of its own.
inline constexpr std::array<int8_t, 16> tbq_table(const TbqGrid& grid) {
  std::array<int8_t, 16> table{};
  for (int code = 0; code < 2 * grid.half; ++code) {
    table[code] = tbq_centroid(grid, code);
  }
  return table;
}
alignas(16) inline constexpr std::array<int8_t, 16> kTbq4Table = tbq_table(kTbq4Grid);
alignas(16) inline constexpr std::array<int8_t, 16> kTbq3Table = tbq_table(kTbq3Grid);

// Codes are packed in units of this many values, or of a whole smaller tile.
inline constexpr int kUnit = 32;

// x: d values of an unrotated tile, d a power of two from 8 to 128. Writes d codes, returns the fp16 scale.
uint16_t tbq_encode_tile(const TbqGrid& grid, const float* x, int d, uint8_t* codes);

}  // namespace kernels
