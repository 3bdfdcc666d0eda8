#pragma once
// Products of stored weights with many rows of activations, for prefill, on tensor cores: weights and activations become
// float16 (values beyond 65504 that), sums are float32. Against kernels::ref::matmul the error is that of the rounding,
// within 2^-10 relative to the sum of magnitudes.

#include "kernels/cuda/launch.h"

namespace kernels::cuda {

// out[i] = x[i], or silu(x[i]) * up[i], as float16; [rows x n], n a multiple of 8, all aligned to
// 16.
base::Result<void> to_halves(Stream stream, Rows rows, const float* x, const float* up, int n, uint16_t* out);

struct Gemm {
  uint32_t ggml_type = 0;
  const void* data = nullptr;    // aligned to 16, as in mat_vec.h
  int64_t n_rows = 0, cols = 0;  // cols a multiple of 32
  size_t row_bytes = 0;
  // Products with experts: what group_rows left, of matrices [n_expert x n_rows x cols] that are expert_bytes apart;
  // nullptr: one matrix for all rows.
  const int* groups = nullptr;
  int n_expert = 0;
  size_t expert_bytes = 0;
  // Output row i reads row i / rows_per_x of x: experts of a token share theirs.
  int rows_per_x = 1;
  const uint16_t* x = nullptr;  // [rows / rows_per_x x cols] float16, aligned to 16
  const float* bias = nullptr;  // (n_rows), added; may be nullptr
  float* y = nullptr;           // [rows x n_rows]
};
// Weights of the types mat_vec takes.
base::Result<void> gemm(Stream stream, Rows rows, const Gemm& product);

// Sorts rows by their expert (expert [rows], under n_expert <= 1024), so that a product reads each expert's weights once
// for all of its rows. groups: group_ints(rows.most, n_expert) ints of device memory; good for every product of the same
// rows.
size_t group_ints(int rows, int n_expert);
base::Result<void> group_rows(Stream stream, Rows rows, const int* expert, int n_expert, int* groups);

}  // namespace kernels::cuda
