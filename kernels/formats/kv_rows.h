#pragma once
// Attention over a page by way of load_rows, one row at a time: simple and slow.

#include <cstddef>
#include <vector>

namespace kernels {

using LoadRows = void (*)(const std::byte* page, int head_dim, int slot0, int n, float* out);

inline void score_by_rows(LoadRows load, const std::byte* page, int head_dim, int slot0, int n,
                          const float* query, int n_q, float* scores, int score_stride) {
  std::vector<float> row(head_dim);
  for (int t = 0; t < n; ++t) {
    load(page, head_dim, slot0 + t, 1, row.data());
    for (int q = 0; q < n_q; ++q) {
      float sum = 0.0F;
      for (int i = 0; i < head_dim; ++i) {
        sum += query[q * head_dim + i] * row[i];
      }
      scores[q * score_stride + t] = sum;
    }
  }
}

inline void accumulate_by_rows(LoadRows load, const std::byte* page, int head_dim, int slot0, int n,
                               const float* weights, int weight_stride, int n_q, float* acc) {
  std::vector<float> row(head_dim);
  for (int t = 0; t < n; ++t) {
    load(page, head_dim, slot0 + t, 1, row.data());
    for (int q = 0; q < n_q; ++q) {
      for (int i = 0; i < head_dim; ++i) {
        acc[q * head_dim + i] += weights[q * weight_stride + t] * row[i];
      }
    }
  }
}

}  // namespace kernels
