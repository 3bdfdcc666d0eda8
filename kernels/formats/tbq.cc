#include "kernels/formats/tbq.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/formats/half.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/rotate.h"
#include "src/base/check.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/tbq.cc"
#include "kernels/each_target.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// For d values z (d a multiple of 8): the index of the nearest positive centroid to |z * to_grid|, and that
// centroid. Comparisons and small integers only: the same on every instruction set.
void find_nearest(const TbqGrid& grid, const float* z, int d, float to_grid, float* nearest,
                  float* centroid) {
  const hn::CappedTag<float, 8> df;
  const auto one = hn::Set(df, 1.0F);
  for (int i = 0; i < d; i += static_cast<int>(hn::Lanes(df))) {
    const auto u = hn::Abs(hn::Mul(hn::LoadU(df, z + i), hn::Set(df, to_grid)));
    auto index = hn::Zero(df);
    auto value = hn::Set(df, grid.positive[0]);
    for (int c = 1; c < grid.half; ++c) {
      const auto low = static_cast<float>(grid.positive[c - 1]);
      const auto high = static_cast<float>(grid.positive[c]);
      const auto beyond = hn::Gt(u, hn::Set(df, 0.5F * (low + high)));
      index = hn::Add(index, hn::IfThenElseZero(beyond, one));
      value = hn::IfThenElse(beyond, hn::Set(df, static_cast<float>(high)), value);
    }
    hn::StoreU(index, df, nearest + i);
    hn::StoreU(value, df, centroid + i);
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(find_nearest);

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
  float nearest[kTile];
  float centroid[kTile];
  HWY_DYNAMIC_DISPATCH(find_nearest)(grid, z, kTile, to_grid, nearest, centroid);
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

#endif  // HWY_ONCE
