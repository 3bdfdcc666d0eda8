#include "kernels/formats/tbq.h"

#include <algorithm>
#include <cmath>

#include "kernels/formats/rotated_tile.h"

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

template <int kTile, int kHalf>
uint16_t encode(const TbqGrid& grid, const float* x, uint8_t* codes) {
  std::fill_n(codes, kTile, static_cast<uint8_t>(0));
  RotatedTile<kTile> tile;
  if (!tile.rotate(x)) {
    return 0;
  }
  const auto to_grid = static_cast<float>(double{grid.unit} * std::sqrt(kTile / tile.square));
  float nearest[kTile];
  float centroid[kTile];
  HWY_DYNAMIC_DISPATCH(find_nearest)(grid, tile.z, kTile, to_grid, nearest, centroid);
  float sizes[kTile];
  for (int i = 0; i < kTile; ++i) {
    sizes[i] = std::fabs(tile.z[i]);
  }
  const uint16_t scale =
      tile.scale(dot_in_lanes<kTile>(sizes, centroid), dot_in_lanes<kTile>(centroid, centroid));
  if (scale == 0) {
    return 0;
  }
  for (int i = 0; i < kTile; ++i) {
    const auto steps = static_cast<int>(nearest[i]);
    codes[i] = static_cast<uint8_t>(std::signbit(tile.z[i]) ? kHalf - 1 - steps : kHalf + steps);
  }
  return scale;
}

}  // namespace

uint16_t tbq_encode_tile(const TbqGrid& grid, const float* x, int d, uint8_t* codes) {
  return with_tile_size(d, [&]<int kTile>() {
    return grid.half == kTbq4Grid.half ? encode<kTile, kTbq4Grid.half>(grid, x, codes)
                                       : encode<kTile, kTbq3Grid.half>(grid, x, codes);
  });
}

}  // namespace kernels

#endif  // HWY_ONCE
