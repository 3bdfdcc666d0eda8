#pragma once
// The forward pass's float operations on the device. The specification of each is kernels::ref::NAME (kernels/ops.h);
// sums run in float in a fixed order, within 1e-6 of it relative to the sum of magnitudes.

#include "kernels/cuda/launch.h"
#include "kernels/route.h"

namespace kernels::cuda {

// out[row] = row token[row] of a table of weights, [rows x n]: the bits of WeightFormat::dequantize. n a multiple of 32; an
// Error where the type is none of those mat_vec takes.
base::Result<void> embed(Stream stream, Rows rows, uint32_t ggml_type, const void* table, size_t row_bytes,
                         const int* token, int n, float* out);

// h[row] += delta[row] where delta is given; out[row] = rms_norm(h[row], weight). [rows x n]; n a multiple of 4, rows
// aligned to 16 bytes.
base::Result<void> add_norm(Stream stream, Rows rows, float* h, const float* delta, const float* weight,
                            int n, float eps, float* out);

struct HeadTurn {
  float* x = nullptr;             // [rows x heads x dim], in place
  const float* weight = nullptr;  // of a norm before the rotation; nullptr: none
  bool norm_all =
      false;  // over all heads of a row, weight (heads x dim); otherwise each head by itself, (dim)
  int heads = 0, dim = 0, n_rot = 0;
  bool neox = false;               // pairs (i, i + n_rot / 2), not (2i, 2i + 1)
  const float* cos_sin = nullptr;  // [rows x n_rot]: (cos, sin) of each pair
  float eps = 0;
};
// QK norm and RoPE. dim a multiple of 8, at most 1024.
base::Result<void> turn_heads(Stream stream, Rows rows, const HeadTurn& turn);

// gate[i] = silu(gate[i]) * up[i] for [rows x n].
base::Result<void> swiglu(Stream stream, Rows rows, float* gate, const float* up, int n);

// kernels::route for each row of logits [rows x n_expert]; router.bias is device memory. chosen, weights [rows x n_used].
// n_expert at most 1024, n_used at most 32.
base::Result<void> route(Stream stream, Rows rows, const Router& router, const float* logits, int* chosen,
                         float* weights);
// y[row] += sum over j of weights[row][j] * x[row][j], j ascending: kernels::mix. x [rows x k x n].
base::Result<void> mix(Stream stream, Rows rows, const float* x, const float* weights, int k, int n,
                       float* y);

}  // namespace kernels::cuda
