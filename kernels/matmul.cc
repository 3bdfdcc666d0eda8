#include <algorithm>

#include "kernels/formats/formats.h"
#include "kernels/ops.h"
#include "src/base/check.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cc"
#include "kernels/each_target.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// Four rows at a time are dequantized a panel of columns at a time, into L1, and multiplied with a block of
// tokens whose running sums wait beside it.
inline constexpr int kPanel = 1024;
inline constexpr int kTokenBlock = 64;

void matmul_tokens(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride,
                   int n_tokens, float* y, int64_t y_stride) {
  alignas(64) float rows[4 * kPanel];
  alignas(64) float quads[kTokenBlock * 4 * kLanes];
  for (int64_t r = row0; r < row1; r += 4) {
    const auto n_rows = static_cast<int>(std::min<int64_t>(4, row1 - r));
    for (int t0 = 0; t0 < n_tokens; t0 += kTokenBlock) {
      const int n_block = std::min(kTokenBlock, n_tokens - t0);
      std::memset(quads, 0, sizeof(float) * 4 * kLanes * static_cast<size_t>(n_block));
      for (int64_t c = 0; c < w.cols; c += kPanel) {
        const auto n = static_cast<int>(std::min<int64_t>(kPanel, w.cols - c));
        const size_t offset = static_cast<size_t>(c / w.format->block_values) * w.format->block_bytes;
        for (int i = 0; i < 4; ++i) {
          float* row = rows + i * kPanel;
          // Past the last row the last one is repeated, and its sums dropped.
          w.format->dequantize_fast(w.data + (r + std::min(i, n_rows - 1)) * w.row_bytes + offset, n, row);
          std::fill(row + n, row + (n + kLanes - 1) / kLanes * kLanes, 0.0F);
        }
        quad_dots_all(rows, kPanel, x + t0 * x_stride + c, x_stride, n_block, n, quads);
      }
      for (int t = 0; t < n_block; ++t) {
        float* out = y + (t0 + t) * y_stride + r;
        for (int i = 0; i < n_rows; ++i) {
          out[i] = sum_lanes(hn::Load(FloatTag(), quads + (4 * t + i) * kLanes));
        }
      }
    }
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(matmul_tokens);

void matmul(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride) {
  AR_CHECK(w.format != nullptr && w.cols % w.format->block_values == 0, "a row is whole blocks");
  AR_CHECK(0 <= row0 && row1 <= w.rows, "rows of the matrix");
  if (row0 >= row1) {
    return;
  }
  if (n_tokens == 1) {
    w.format->dot_rows(w.data + row0 * w.row_bytes, w.row_bytes, static_cast<int>(row1 - row0), x, w.cols,
                       y + row0);
    return;
  }
  HWY_DYNAMIC_DISPATCH(matmul_tokens)(w, row0, row1, x, x_stride, n_tokens, y, y_stride);
}

}  // namespace kernels

#endif  // HWY_ONCE
