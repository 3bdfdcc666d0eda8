#include "kernels/formats/f32.h"

#include <cstring>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/kv_rows.h"

namespace kernels::f32 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  std::memcpy(out, row, 4 * n);
}
void dequantize_fast(const std::byte* row, int64_t n, float* out) {
  std::memcpy(out, row, 4 * n);
}

size_t page_bytes(int head_dim) {
  return plane_bytes(4 * static_cast<size_t>(head_dim));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  const size_t row = 4 * static_cast<size_t>(head_dim);
  std::memcpy(page + row * slot, x, row);
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const size_t row = 4 * static_cast<size_t>(head_dim);
  std::memcpy(out, page + row * slot0, row * n);
}

void score(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q, float* scores,
           int score_stride) {
  score_by_rows(load_rows, page, head_dim, slot0, n, query, n_q, scores, score_stride);
}

void accumulate(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                int weight_stride, int n_q, float* acc) {
  accumulate_by_rows(load_rows, page, head_dim, slot0, n, weights, weight_stride, n_q, acc);
}

}  // namespace kernels::f32
