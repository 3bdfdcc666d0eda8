#include "kernels/formats/q8_0.h"

#include <algorithm>
#include <cmath>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"

namespace kernels::q8_0 {
namespace {

constexpr int kBlock = 32;
constexpr int kBlockBytes = 34;

// Rounds n <= 32 values into codes; returns the fp16 scale.
uint16_t quantize_group(const float* x, int n, std::byte* codes) {
  std::fill_n(codes, n, std::byte{0});
  float largest = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return 0;
    }
    largest = std::max(largest, std::fabs(x[i]));
  }
  const uint16_t scale = f16_saturated(largest / 127.0F);
  if (scale == 0) {
    return 0;
  }
  const float inverse = largest / 127.0F > kF16Max ? 1.0F / kF16Max : 127.0F / largest;
  for (int i = 0; i < n; ++i) {
    const float q = std::clamp(x[i] * inverse, -127.0F, 127.0F);
    codes[i] = static_cast<std::byte>(static_cast<int8_t>(q < 0.0F ? q - 0.5F : q + 0.5F));
  }
  return scale;
}

}  // namespace

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    const float d = f32_from_f16(load_unaligned<uint16_t>(row));
    for (int i = 0; i < kBlock; ++i) {
      out[begin + i] = d * static_cast<float>(static_cast<int8_t>(row[2 + i]));
    }
  }
}

void dequantize_fast(const std::byte* row, int64_t n, float* out) {
  dequantize(row, n, out);
}

void quantize(const float* values, int64_t n, std::byte* row) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    store_unaligned(row, quantize_group(values + begin, kBlock, row + 2));
  }
}

size_t page_bytes(int head_dim) {
  return plane_bytes(head_dim) + plane_bytes(2 * static_cast<size_t>(group_count(head_dim, kBlock)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* codes = page + static_cast<size_t>(head_dim) * slot;
  std::byte* scales = page + plane_bytes(head_dim);
  const int n_groups = group_count(head_dim, kBlock);
  for (int g = 0; g < n_groups; ++g) {
    const int begin = g * kBlock;
    const int n = std::min(kBlock, head_dim - begin);
    set_scale(scales, n_groups, slot, g, quantize_group(x + begin, n, codes + begin));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim);
  const int n_groups = group_count(head_dim, kBlock);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* codes = page + static_cast<size_t>(head_dim) * slot;
    for (int i = 0; i < head_dim; ++i) {
      out[i] =
          scale_at(scales, n_groups, slot, i / kBlock) * static_cast<float>(static_cast<int8_t>(codes[i]));
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

}  // namespace kernels::q8_0
