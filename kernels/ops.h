#pragma once
// Float kernels of the forward pass, dispatched at run time to the best instruction set (Highway). Every
// result is independent of how the caller splits rows and tokens over calls: each output value is computed by
// one fixed sequence of operations. The scalar reference of each is kernels::ref::NAME, accumulating in
// double.

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace kernels {

struct WeightFormat;

// A matrix as the model file stores it: rows of cols values, row_bytes apart.
struct Matrix {
  const WeightFormat* format = nullptr;
  const std::byte* data = nullptr;
  int64_t rows = 0, cols = 0;
  size_t row_bytes = 0;
};

// y[t * y_stride + r] = <w row r, x + t * x_stride> for r in [row0, row1), t in [0, n_tokens). Exact
// arithmetic: weights dequantized to f32, f32 activations, f32 FMA accumulation (kernels/simd-inl.h, Quad).
// One token is computed fused, from the stored bytes; more share one dequantization per 64 of them. Ranges of
// a multiple of four rows are fastest.
void matmul(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride);

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]
void rms_norm(const float* x, const float* weight, int n, float eps, float* out);
// Its two halves, for a vector that is normalised piece by piece: 1 / sqrt(mean(x^2) + eps), and
// out[i] = x[i] * s * weight[i]. out may be x.
float rms_scale(const float* x, int n, float eps);
void scale_by(const float* x, float s, const float* weight, int n, float* out);

// Rotates pairs (2i, 2i+1) for i < n_rot/2 of one head in place; cos_sin holds n_rot/2 (cos, sin) pairs for
// the position.
void rope_norm(float* head, int n_rot, const float* cos_sin);
// Same with pairs (i, i + n_rot/2): "neox".
void rope_neox(float* head, int n_rot, const float* cos_sin);

// gate[i] = silu(gate[i]) * up[i]
void swiglu(float* gate, const float* up, int n);
// y[i] += x[i]
void add(float* y, const float* x, int n);
// max over x[0..n); -inf for n = 0
float reduce_max(const float* x, int n);
// x[i] = exp(x[i] - max); returns the sum, in a fixed order
float exp_sum(float* x, int n, float max);
// y[i] *= s
void scale(float* y, float s, int n);

namespace ref {
void matmul(const Matrix& w, int64_t row0, int64_t row1, const float* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride);
void rms_norm(const float* x, const float* weight, int n, float eps, float* out);
void rope_norm(float* head, int n_rot, const float* cos_sin);
void rope_neox(float* head, int n_rot, const float* cos_sin);
void swiglu(float* gate, const float* up, int n);
}  // namespace ref

}  // namespace kernels
