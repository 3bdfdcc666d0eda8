#include "kernels/formats/tbq.h"

#include <algorithm>
#include <cmath>

#include "kernels/formats/half.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/rotate.h"

namespace kernels {

uint16_t tbq_encode_tile(const TbqGrid& grid, const float* x, int d, uint8_t* codes) {
  std::fill_n(codes, d, static_cast<uint8_t>(0));
  float largest = 0.0F;
  bool finite = true;
  for (int i = 0; i < d; ++i) {
    finite = finite && std::isfinite(x[i]);
    largest = std::max(largest, std::fabs(x[i]));
  }
  if (!finite || largest == 0.0F) {
    return 0;
  }
  // Sums of up to 128 values near the top of float's range would overflow; a power of two keeps every bit.
  const float shrink = largest > 0x1p100F ? 0x1p-64F : 1.0F;
  float z[kMaxTile];
  for (int i = 0; i < d; ++i) {
    z[i] = x[i] * shrink;
  }
  rotate_tile(z, d);

  double square = 0.0;
  for (int i = 0; i < d; ++i) {
    square += double{z[i]} * double{z[i]};
  }
  if (square == 0.0) {
    return 0;
  }
  const auto to_grid = static_cast<float>(double{grid.unit} * std::sqrt(d / square));
  double dot = 0.0;
  int square_codes = 0;
  for (int i = 0; i < d; ++i) {
    const float u = std::fabs(z[i] * to_grid);
    int nearest = 0;
    for (int c = 1; c < grid.half; ++c) {
      nearest += u > 0.5F * static_cast<float>(grid.positive[c - 1] + grid.positive[c]) ? 1 : 0;
    }
    const bool negative = std::signbit(z[i]);
    codes[i] = static_cast<uint8_t>(negative ? grid.half - 1 - nearest : grid.half + nearest);
    const int centroid = negative ? -grid.positive[nearest] : grid.positive[nearest];
    dot += double{z[i]} * centroid;
    square_codes += centroid * centroid;
  }
  const uint16_t scale = f16_saturated(static_cast<float>(dot / square_codes / double{shrink}));
  if (scale == 0) {
    std::fill_n(codes, d, static_cast<uint8_t>(0));
  }
  return scale;
}

}  // namespace kernels
