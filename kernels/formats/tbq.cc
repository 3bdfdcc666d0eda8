#include "kernels/formats/tbq.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/formats/half.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/rotate.h"
#include "src/base/check.h"

namespace kernels {

namespace {

// Sums run in eight lanes of double, where every product of the data is exact: any compiler, with or without
// FMA, gets the same bits.
constexpr int kSums = 8;

double sum(const double (&lanes)[kSums]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Sizes are template arguments so that the compiler sees whole vectors.
template <int kTile, int kHalf>
uint16_t encode(const TbqGrid& grid, const float* x, uint8_t* codes) {
  std::fill_n(codes, kTile, static_cast<uint8_t>(0));
  int32_t largest_bits = 0;
  for (int i = 0; i < kTile; ++i) {
    largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  }
  if (largest_bits == 0 || largest_bits >= 0x7f800000) {
    return 0;
  }
  // Sums of up to 128 values near the top of float's range would overflow; a power of two keeps every bit.
  const float shrink = std::bit_cast<float>(largest_bits) > 0x1p100F ? 0x1p-64F : 1.0F;
  float z[kTile];
  for (int i = 0; i < kTile; ++i) {
    z[i] = x[i] * shrink;
  }
  rotate_tile(z, kTile);

  double squares[kSums] = {};
  for (int i = 0; i < kTile; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      squares[j] += double{z[i + j]} * double{z[i + j]};
    }
  }
  const double square = sum(squares);
  if (square == 0.0) {
    return 0;
  }
  const auto to_grid = static_cast<float>(double{grid.unit} * std::sqrt(kTile / square));
  // Centroids in float: small integers, so their sums are exact.
  float nearest[kTile];
  float centroid[kTile];
  for (int i = 0; i < kTile; ++i) {
    nearest[i] = 0.0F;
    centroid[i] = grid.positive[0];
  }
  for (int c = 1; c < kHalf; ++c) {
    const float boundary = 0.5F * static_cast<float>(grid.positive[c - 1] + grid.positive[c]);
    const auto step = static_cast<float>(grid.positive[c] - grid.positive[c - 1]);
    for (int i = 0; i < kTile; ++i) {
      const bool beyond = std::fabs(z[i] * to_grid) > boundary;
      nearest[i] += beyond ? 1.0F : 0.0F;
      centroid[i] += beyond ? step : 0.0F;
    }
  }
  double dots[kSums] = {};
  double square_codes[kSums] = {};
  for (int i = 0; i < kTile; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      dots[j] += double{std::fabs(z[i + j])} * double{centroid[i + j]};
      square_codes[j] += double{centroid[i + j]} * double{centroid[i + j]};
    }
  }
  const double least_squares = sum(dots) / sum(square_codes);
  const uint16_t scale = f16_saturated(static_cast<float>(least_squares / double{shrink}));
  if (scale == 0) {
    return 0;
  }
  for (int i = 0; i < kTile; ++i) {
    const auto steps = static_cast<int>(nearest[i]);
    codes[i] = static_cast<uint8_t>(std::signbit(z[i]) ? kHalf - 1 - steps : kHalf + steps);
  }
  return scale;
}

template <int kHalf>
uint16_t encode_tile(const TbqGrid& grid, const float* x, int d, uint8_t* codes) {
  switch (d) {
    case 8:
      return encode<8, kHalf>(grid, x, codes);
    case 16:
      return encode<16, kHalf>(grid, x, codes);
    case 32:
      return encode<32, kHalf>(grid, x, codes);
    case 64:
      return encode<64, kHalf>(grid, x, codes);
    default:
      AR_CHECK(d == kMaxTile, "a tile is a power of two from 8 to 128");
      return encode<kMaxTile, kHalf>(grid, x, codes);
  }
}

}  // namespace

uint16_t tbq_encode_tile(const TbqGrid& grid, const float* x, int d, uint8_t* codes) {
  return grid.half == kTbq4Grid.half ? encode_tile<kTbq4Grid.half>(grid, x, d, codes)
                                     : encode_tile<kTbq3Grid.half>(grid, x, d, codes);
}

}  // namespace kernels
