#include "kernels/formats/tbq4_0.h"

#include <algorithm>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"
#include "kernels/formats/tbq.h"

namespace kernels::tbq4_0 {
namespace {

constexpr int kUnit = 32;

}  // namespace

size_t page_bytes(int head_dim) {
  return plane_bytes(head_dim / 2) + plane_bytes(2 * static_cast<size_t>(tile_count(head_dim)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* row = page + static_cast<size_t>(head_dim / 2) * slot;
  std::byte* scales = page + plane_bytes(head_dim / 2);
  uint8_t codes[kMaxTile];
  int tile = 0;
  for (int begin = 0; begin < head_dim; ++tile) {
    const int d = tile_at(begin, head_dim);
    set_scale(scales, tile_count(head_dim), slot, tile, tbq_encode_tile(kTbq4Grid, x + begin, d, codes));
    const int half = std::min(kUnit, d) / 2;
    for (int i = 0; i < d / 2; ++i) {
      const int value = i / half * 2 * half + i % half;
      row[begin / 2 + i] = static_cast<std::byte>(codes[value] | codes[value + half] << 4);
    }
    begin += d;
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim / 2);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* row = page + static_cast<size_t>(head_dim / 2) * slot;
    int tile = 0;
    for (int begin = 0; begin < head_dim; ++tile) {
      const int d = tile_at(begin, head_dim);
      const float scale = scale_at(scales, tile_count(head_dim), slot, tile);
      const int half = std::min(kUnit, d) / 2;
      for (int i = 0; i < d / 2; ++i) {
        const int value = begin + i / half * 2 * half + i % half;
        const auto byte = static_cast<int>(row[begin / 2 + i]);
        out[value] = scale * static_cast<float>(tbq_centroid(kTbq4Grid, byte & 15));
        out[value + half] = scale * static_cast<float>(tbq_centroid(kTbq4Grid, byte >> 4));
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

}  // namespace kernels::tbq4_0
