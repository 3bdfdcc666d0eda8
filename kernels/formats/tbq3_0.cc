#include "kernels/formats/tbq3_0.h"

#include <algorithm>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"
#include "kernels/formats/tbq.h"

namespace kernels::tbq3_0 {
namespace {

constexpr int kUnit = 32;

// Offsets of the planes: low two bits at 0, third bit, scales.
size_t high_plane(int head_dim) {
  return plane_bytes(head_dim / 4);
}
size_t scale_plane(int head_dim) {
  return high_plane(head_dim) + plane_bytes(head_dim / 8);
}

}  // namespace

size_t page_bytes(int head_dim) {
  return scale_plane(head_dim) + plane_bytes(2 * static_cast<size_t>(tile_count(head_dim)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* low = page + static_cast<size_t>(head_dim / 4) * slot;
  std::byte* high = page + high_plane(head_dim) + static_cast<size_t>(head_dim / 8) * slot;
  std::byte* scales = page + scale_plane(head_dim);
  uint8_t codes[kMaxTile];
  int tile = 0;
  for (int begin = 0; begin < head_dim; ++tile) {
    const int d = tile_at(begin, head_dim);
    set_scale(scales, tile_count(head_dim), slot, tile, tbq_encode_tile(kTbq3Grid, x + begin, d, codes));
    const int quarter = std::min(kUnit, d) / 4;
    for (int i = 0; i < d / 4; ++i) {
      const uint8_t* unit = codes + i / quarter * 4 * quarter + i % quarter;
      unsigned bits = 0;
      for (int k = 0; k < 4; ++k) {
        bits |= (unit[k * quarter] & 3U) << (2 * k);
      }
      low[begin / 4 + i] = static_cast<std::byte>(bits);
    }
    for (int i = 0; i < d / 8; ++i) {
      unsigned bits = 0;
      for (int k = 0; k < 8; ++k) {
        bits |= (codes[8 * i + k] >> 2 & 1U) << k;
      }
      high[begin / 8 + i] = static_cast<std::byte>(bits);
    }
    begin += d;
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + scale_plane(head_dim);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* low = page + static_cast<size_t>(head_dim / 4) * slot;
    const std::byte* high = page + high_plane(head_dim) + static_cast<size_t>(head_dim / 8) * slot;
    int tile = 0;
    for (int begin = 0; begin < head_dim; ++tile) {
      const int d = tile_at(begin, head_dim);
      const float scale = scale_at(scales, tile_count(head_dim), slot, tile);
      const int unit = std::min(kUnit, d);
      for (int i = 0; i < d; ++i) {
        const int in_unit = i % unit;
        const auto bits2 = static_cast<int>(low[(begin + i / unit * unit) / 4 + in_unit % (unit / 4)]);
        const auto bits1 = static_cast<int>(high[(begin + i) / 8]);
        const int code = (bits2 >> (2 * (in_unit / (unit / 4))) & 3) | (bits1 >> (i % 8) & 1) << 2;
        out[begin + i] = scale * static_cast<float>(tbq_centroid(kTbq3Grid, code));
      }
      begin += d;
    }
  }
}

void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride) {
  score_by_rows(load_rows, page, head_dim, slot0, n, query, n_q, scores, score_stride);
}

void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc) {
  accumulate_by_rows(load_rows, page, head_dim, slot0, n, weights, weight_stride, n_q, acc);
}

}  // namespace kernels::tbq3_0
