#include "kernels/formats/f16.h"

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"

namespace kernels::f16 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = f32_from_f16(load_unaligned<uint16_t>(row + 2 * i));
  }
}

void dequantize_fast(const std::byte* row, int64_t n, float* out) {
  dequantize(row, n, out);
}

void quantize(const float* values, int64_t n, std::byte* row) {
  for (int64_t i = 0; i < n; ++i) {
    store_unaligned(row + 2 * i, f16_from_f32(values[i]));
  }
}

size_t page_bytes(int head_dim) {
  return plane_bytes(2 * static_cast<size_t>(head_dim));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* row = page + 2 * static_cast<size_t>(head_dim) * slot;
  for (int i = 0; i < head_dim; ++i) {
    store_unaligned(row + 2 * i, f16_saturated(x[i]));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  dequantize(page + 2 * static_cast<size_t>(head_dim) * slot0, int64_t{head_dim} * n, out);
}

void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride) {
  score_by_rows(load_rows, page, head_dim, slot0, n, query, n_q, scores, score_stride);
}

void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc) {
  accumulate_by_rows(load_rows, page, head_dim, slot0, n, weights, weight_stride, n_q, acc);
}

}  // namespace kernels::f16
