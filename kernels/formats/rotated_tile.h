#pragma once
// What the encoders of rotated formats share: a tile in its rotated basis, its norm, the scale of its codes.

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/formats/half.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/rotate.h"
#include "src/base/check.h"

namespace kernels {

// <a, b> of n values, n a multiple of 8. Runs in eight lanes of double, where every product of the data is exact: any
// compiler, with or without FMA, gets the same bits.
template <int n>
double dot_in_lanes(const float* a, const float* b) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      lanes[j] += double{a[i + j]} * double{b[i + j]};
    }
  }
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Sizes are template arguments so that the compiler sees whole vectors.
template <int kTile>
struct RotatedTile {
  float z[kTile];     // the tile, rotated and shrunk
  float shrink = 1;   // a power of two
  double square = 0;  // <z, z>

  // False for a tile that is stored as zeros: with a NaN or an infinity, or so small that no scale is left of it.
  bool rotate(const float* x) {
    int32_t largest_bits = 0;
    for (int i = 0; i < kTile; ++i) {
      largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
    }
    if (largest_bits == 0 || largest_bits >= 0x7f800000) {
      return false;
    }
    // Sums of up to 128 values near the top of float's range would overflow; a power of two keeps every bit.
    shrink = std::bit_cast<float>(largest_bits) > 0x1p100F ? 0x1p-64F : 1.0F;
    for (int i = 0; i < kTile; ++i) {
      z[i] = x[i] * shrink;
    }
    rotate_tile(z, kTile);
    square = dot_in_lanes<kTile>(z, z);
    return square >= kTile * 0x1p-60;  // 2^-30 each: an fp16 scale ends at 2^-25
  }
  // The least-squares scale <z, c> / <c, c> of codes' values c, as fp16; 0 where that is too small.
  uint16_t scale(double dot, double square_of_codes) const {
    const uint16_t bits = f16_saturated(static_cast<float>(dot / square_of_codes / double{shrink}));
    return (bits & 0x7fffU) == 0 ? 0 : bits;
  }
};

// body.operator()<d>() for the tile sizes there are: powers of two from 8 to 128.
template <class Body>
uint16_t with_tile_size(int d, const Body& body) {
  switch (d) {
    case 8:
      return body.template operator()<8>();
    case 16:
      return body.template operator()<16>();
    case 32:
      return body.template operator()<32>();
    case 64:
      return body.template operator()<64>();
    default:
      AR_CHECK(d == kMaxTile, "a tile is a power of two from 8 to 128");
      return body.template operator()<kMaxTile>();
  }
}

}  // namespace kernels
