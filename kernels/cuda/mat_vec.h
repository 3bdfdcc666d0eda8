#pragma once
// Products of stored weights with few rows of activations, for decode. Formats with integer dots take activations
// rounded to DotBlocks (kernels/dots.h), byte for byte what kernels::ref::quantize_dots gives; the others (f16, bf16,
// f32, the IQ2 and IQ3 types, mxfp4) take floats. Sums over blocks run in another order than on the CPU: within 1e-6 of kernels::ref::matmul relative to the
// sum of magnitudes; they depend neither on the number of rows nor on which of them a row is.

#include "kernels/cuda/launch.h"
#include "kernels/dots.h"

namespace kernels::cuda {

// x [rows x n] floats, or silu(x) * up where up is given; n a multiple of 32, both aligned to 16;
// group 32 or 256 (dot_group).
base::Result<void> quantize_dots(Stream stream, Rows rows, const float* x, const float* up, int n, int group,
                                 DotBlock* out);

struct MatVec {
  uint32_t ggml_type = 0;
  const void* data = nullptr;  // aligned to 16: a GGUF's own tensors are, unless its alignment is smaller
  int64_t n_rows = 0, cols = 0;
  size_t row_bytes = 0;
  // Which matrix of a stack [experts x n_rows x cols] output row i takes, expert_bytes apart; nullptr: the first.
  const int* expert = nullptr;
  size_t expert_bytes = 0;
  // Output row i reads row i / rows_per_x of the activations: experts of a token share theirs.
  int rows_per_x = 1;
  const DotBlock* x = nullptr;      // [rows x dot_blocks(cols)] for formats with integer dots
  const float* x_floats = nullptr;  // [rows x cols] for the others
  const float* bias = nullptr;      // (n_rows), added; may be nullptr
  float* y = nullptr;               // [rows x n_rows]
};
// An Error where the type is none of those in mat_vec.cu's tables.
base::Result<void> mat_vec(Stream stream, Rows rows, const MatVec& product);
// Whether mat_vec takes weights of this type, and as floats.
bool has_dots(uint32_t ggml_type);
bool has_floats(uint32_t ggml_type);

}  // namespace kernels::cuda
