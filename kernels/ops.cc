#include "kernels/ops.h"

#include <cmath>
#include <limits>

#include "kernels/formats/formats.h"

namespace kernels {

void matmul(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride, float* scratch) {
  for (int64_t r = row0; r < row1; ++r) {
    w.format->dequantize_fast(w.data + r * w.row_bytes, w.cols, scratch);
    for (int t = 0; t < n_tokens; ++t) {
      const float* token = x + t * x_stride;
      float lanes[8] = {};
      int64_t i = 0;
      for (; i + 8 <= w.cols; i += 8) {
        for (int j = 0; j < 8; ++j) {
          lanes[j] += scratch[i + j] * token[i + j];
        }
      }
      float sum = 0.0F;
      for (const float lane : lanes) {
        sum += lane;
      }
      for (; i < w.cols; ++i) {
        sum += scratch[i] * token[i];
      }
      y[t * y_stride + r] = sum;
    }
  }
}

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  ref::rms_norm(x, weight, n, eps, out);
}
void rope_norm(float* head, int n_rot, const float* cos_sin) {
  ref::rope_norm(head, n_rot, cos_sin);
}
void rope_neox(float* head, int n_rot, const float* cos_sin) {
  ref::rope_neox(head, n_rot, cos_sin);
}
void swiglu(float* gate, const float* up, int n) {
  ref::swiglu(gate, up, n);
}

void add(float* y, const float* x, int n) {
  for (int i = 0; i < n; ++i) {
    y[i] += x[i];
  }
}

float reduce_max(const float* x, int n) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < n; ++i) {
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

float exp_sum(float* x, int n, float max) {
  float sum = 0.0F;
  for (int i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - max);
    sum += x[i];
  }
  return sum;
}

void scale(float* y, float s, int n) {
  for (int i = 0; i < n; ++i) {
    y[i] *= s;
  }
}

const char* float_isa() {
  return "scalar";
}

}  // namespace kernels
