#include "kernels/formats/tcq.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/formats/rotated_tile.h"
#include "kernels/scores.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/tcq.cc"
#include "kernels/each_target.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// The windows of the path with the least squared error. u: d values; integers: by state after a value, [2^bits][states],
// twice as large as they are, as u is. All are integers and no sum reaches 2^24: floats are exact, the same on every
// instruction set.
template <int kBits>
HWY_INLINE void find_path(const float* u, int d, const float* integers, uint8_t* windows) {
  constexpr int kStates = 1 << (kTrellisWindow - kBits), kWays = 1 << kBits;
  const hn::CappedTag<float, kStates> df;
  const int lanes = static_cast<int>(hn::Lanes(df));
  alignas(64) float cost[2][kStates];
  alignas(64) float came[kMaxTile][kStates];
  std::fill_n(cost[0], kStates, 1e30F);
  cost[0][0] = 0.0F;
  for (int i = 0; i < d; ++i) {
    const float *before = cost[i % 2], *to = integers;
    float* after = cost[(i + 1) % 2];
    const auto x = hn::Set(df, u[i]);
    for (int state = 0; state < kStates; state += lanes, to += lanes) {
      auto least = hn::Set(df, 3e30F), way = hn::Zero(df);
      for (int w = 0; w < kWays; ++w) {
        const auto error = hn::Sub(x, hn::Load(df, to + w * kStates));
        const auto sum = hn::MulAdd(error, error, hn::Set(df, before[w % kStates]));
        way = hn::IfThenElse(hn::Lt(sum, least), hn::Set(df, static_cast<float>(w)), way);
        least = hn::Min(sum, least);
      }
      hn::Store(least, df, after + state);
      hn::Store(way, df, came[i] + state);
    }
  }
  const float* last = cost[d % 2];
  auto state = static_cast<int>(std::min_element(last, last + kStates) - last);
  for (int i = d - 1; i >= 0; --i) {
    const auto way = static_cast<int>(came[i][state]);
    windows[i] = static_cast<uint8_t>(way | state << kBits);
    state = way % kStates;
  }
}

void find_path4(const float* u, int d, const float* integers, uint8_t* windows) {
  find_path<4>(u, d, integers, windows);
}
void find_path3(const float* u, int d, const float* integers, uint8_t* windows) {
  find_path<3>(u, d, integers, windows);
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(find_path4);
HWY_EXPORT(find_path3);

namespace {

// Twice the integers, by the bits that choose among a state's windows, then by the state that follows.
struct Ways {
  alignas(64) float integers[kTrellisSize];
  explicit constexpr Ways(const Trellis& trellis) : integers{} {
    const int states = 1 << (kTrellisWindow - trellis.bits), ways = 1 << trellis.bits;
    for (int way = 0; way < ways; ++way) {
      for (int state = 0; state < states; ++state) {
        integers[way * states + state] =
            2.0F * static_cast<float>(trellis.integers[way | state << trellis.bits]);
      }
    }
  }
};
constexpr Ways kWays4(kTrellis4), kWays3(kTrellis3);

template <int kTile>
uint16_t encode(const Trellis& trellis, const float* x, uint8_t* stream) {
  std::fill_n(stream, kTile * trellis.bits / 8, static_cast<uint8_t>(0));
  RotatedTile<kTile> tile;
  if (!tile.rotate(x)) {
    return 0;
  }
  // Half units: 1/80 of a standard deviation is near enough for the choice, and sums of squares stay exact.
  const auto to_grid = static_cast<float>(2.0 * double{trellis.unit} * std::sqrt(kTile / tile.square));
  float u[kTile];
  for (int i = 0; i < kTile; ++i) {
    u[i] = std::nearbyint(tile.z[i] * to_grid);
  }
  uint8_t windows[kTile];
  if (trellis.bits == 4) {
    HWY_DYNAMIC_DISPATCH(find_path4)(u, kTile, kWays4.integers, windows);
  } else {
    HWY_DYNAMIC_DISPATCH(find_path3)(u, kTile, kWays3.integers, windows);
  }
  float values[kTile];
  for (int i = 0; i < kTile; ++i) {
    values[i] = trellis.integers[windows[i]];
  }
  const uint16_t scale = tile.scale(dot_in_lanes<kTile>(tile.z, values), dot_in_lanes<kTile>(values, values));
  if (scale == 0) {
    return 0;
  }
  for (int i = 0; i < kTile; ++i) {
    const unsigned code = windows[i] >> (kTrellisWindow - trellis.bits);
    const int at = trellis.bits * i;
    stream[at / 8] = static_cast<uint8_t>(stream[at / 8] | code << (at % 8));
    if (at % 8 + trellis.bits > 8) {
      stream[at / 8 + 1] = static_cast<uint8_t>(stream[at / 8 + 1] | code >> (8 - at % 8));
    }
  }
  return scale;
}

size_t row_bytes(const Trellis& trellis, int head_dim) {
  return static_cast<size_t>(head_dim) * static_cast<size_t>(trellis.bits) / 8;
}

}  // namespace

uint16_t trellis_encode_tile(const Trellis& trellis, const float* x, int d, uint8_t* stream) {
  return with_tile_size(d, [&]<int kTile>() { return encode<kTile>(trellis, x, stream); });
}

size_t trellis_scale_plane(const Trellis& trellis, int head_dim) {
  return plane_bytes(row_bytes(trellis, head_dim));
}

size_t trellis_page_bytes(const Trellis& trellis, int head_dim) {
  check_head_dim(head_dim);
  return trellis_scale_plane(trellis, head_dim) + plane_bytes(2 * static_cast<size_t>(tile_count(head_dim)));
}

void trellis_write_row(const Trellis& trellis, const float* x, int head_dim, std::byte* page, int slot) {
  auto* row = reinterpret_cast<uint8_t*>(page) + row_bytes(trellis, head_dim) * static_cast<size_t>(slot);
  std::byte* scales = page + trellis_scale_plane(trellis, head_dim);
  int tile = 0;
  for (int begin = 0; begin < head_dim; ++tile) {
    const int d = tile_at(begin, head_dim);
    set_scale(scales, tile_count(head_dim), slot, tile,
              trellis_encode_tile(trellis, x + begin, d, row + begin * trellis.bits / 8));
    begin += d;
  }
}

void trellis_load_rows(const Trellis& trellis, const std::byte* page, int head_dim, int slot0, int n,
                       float* out) {
  const std::byte* scales = page + trellis_scale_plane(trellis, head_dim);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const auto* row =
        reinterpret_cast<const uint8_t*>(page) + row_bytes(trellis, head_dim) * static_cast<size_t>(slot);
    int tile = 0;
    for (int begin = 0; begin < head_dim; ++tile) {
      const int d = tile_at(begin, head_dim);
      const float scale = scale_at(scales, tile_count(head_dim), slot, tile);
      for (int i = 0; i < d; ++i) {
        const int window = trellis_window(row + begin * trellis.bits / 8, trellis.bits, i);
        out[begin + i] = scale * static_cast<float>(trellis.integers[window]);
      }
      begin += d;
    }
  }
}

void trellis_score_rounded(const Trellis& trellis, const std::byte* page, int head_dim, int slot0, int n,
                           const float* query, int n_q, float* scores, int score_stride) {
  ScoreRows rows{.stored = trellis.bits == 4 ? ScoreCodes::kStream4 : ScoreCodes::kStream3,
                 .tiles = true,
                 .head_dim = head_dim};
  const auto slot = static_cast<size_t>(slot0);
  rows.integers = trellis.integers;
  rows.codes = reinterpret_cast<const uint8_t*>(page) + rows.codes_row() * slot;
  rows.scales = reinterpret_cast<const uint8_t*>(page) + trellis_scale_plane(trellis, head_dim) +
                rows.scales_row() * slot;
  score_rows(rows, n, query, n_q, scores, score_stride);
}

}  // namespace kernels

#endif  // HWY_ONCE
