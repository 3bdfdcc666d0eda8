#include <cmath>
#include <vector>

#include "kernels/formats/formats.h"
#include "kernels/ops.h"

namespace kernels::ref {

void matmul(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride) {
  std::vector<float> row(w.cols);
  for (int64_t r = row0; r < row1; ++r) {
    w.format->dequantize(w.data + r * w.row_bytes, w.cols, row.data());
    for (int t = 0; t < n_tokens; ++t) {
      double sum = 0.0;
      for (int64_t i = 0; i < w.cols; ++i) {
        sum += double{row[i]} * double{x[t * x_stride + i]};
      }
      y[t * y_stride + r] = static_cast<float>(sum);
    }
  }
}

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  double square = 0.0;
  for (int i = 0; i < n; ++i) {
    square += double{x[i]} * double{x[i]};
  }
  const double scale = 1.0 / std::sqrt(square / n + double{eps});
  for (int i = 0; i < n; ++i) {
    out[i] = static_cast<float>(x[i] * scale * weight[i]);
  }
}

namespace {

void rotate_pair(float& a, float& b, const float* cos_sin) {
  const double x = a;
  const double y = b;
  a = static_cast<float>(x * cos_sin[0] - y * cos_sin[1]);
  b = static_cast<float>(x * cos_sin[1] + y * cos_sin[0]);
}

}  // namespace

void rope_norm(float* head, int n_rot, const float* cos_sin) {
  for (int i = 0; i < n_rot / 2; ++i) {
    rotate_pair(head[2 * i], head[2 * i + 1], cos_sin + 2 * i);
  }
}

void rope_neox(float* head, int n_rot, const float* cos_sin) {
  for (int i = 0; i < n_rot / 2; ++i) {
    rotate_pair(head[i], head[i + n_rot / 2], cos_sin + 2 * i);
  }
}

void swiglu(float* gate, const float* up, int n) {
  for (int i = 0; i < n; ++i) {
    const double g = gate[i];
    gate[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

}  // namespace kernels::ref
