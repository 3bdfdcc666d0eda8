#include "kernels/formats/q4_0.h"

#include <algorithm>
#include <cmath>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"

namespace kernels::q4_0 {
namespace {

constexpr int kBlock = 32;
constexpr int kBlockBytes = 18;
constexpr std::byte kZeros{0x88};

// Rounds n <= 32 values (n even) into n / 2 bytes of nibbles; returns the fp16 scale.
uint16_t quantize_group(const float* x, int n, std::byte* codes) {
  const int half = n / 2;
  std::fill_n(codes, half, kZeros);
  float extreme = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return 0;
    }
    extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  }
  const float d = extreme / -8.0F;
  const uint16_t scale = f16_saturated(d);
  if ((scale & 0x7fffU) == 0) {
    return 0;
  }
  const float inverse = std::fabs(d) > kF16Max ? 1.0F / std::copysign(kF16Max, d) : 1.0F / d;
  const auto code = [&](float value) {
    return static_cast<unsigned>(std::clamp(value * inverse + 8.5F, 0.0F, 15.0F));
  };
  for (int i = 0; i < half; ++i) {
    codes[i] = static_cast<std::byte>(code(x[i]) | code(x[i + half]) << 4);
  }
  return scale;
}

void dequantize_group(const std::byte* codes, float d, int n, float* out) {
  const int half = n / 2;
  for (int i = 0; i < half; ++i) {
    const auto byte = static_cast<int>(codes[i]);
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[i + half] = d * static_cast<float>((byte >> 4) - 8);
  }
}

}  // namespace

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    dequantize_group(row + 2, f32_from_f16(load_unaligned<uint16_t>(row)), kBlock, out + begin);
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
  return plane_bytes(head_dim / 2) + plane_bytes(2 * static_cast<size_t>(group_count(head_dim, kBlock)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* codes = page + static_cast<size_t>(head_dim / 2) * slot;
  std::byte* scales = page + plane_bytes(head_dim / 2);
  const int n_groups = group_count(head_dim, kBlock);
  for (int g = 0; g < n_groups; ++g) {
    const int begin = g * kBlock;
    const int n = std::min(kBlock, head_dim - begin);
    set_scale(scales, n_groups, slot, g, quantize_group(x + begin, n, codes + begin / 2));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim / 2);
  const int n_groups = group_count(head_dim, kBlock);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* codes = page + static_cast<size_t>(head_dim / 2) * slot;
    for (int g = 0; g < n_groups; ++g) {
      const int begin = g * kBlock;
      dequantize_group(codes + begin / 2, scale_at(scales, n_groups, slot, g),
                       std::min(kBlock, head_dim - begin), out + begin);
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

}  // namespace kernels::q4_0
