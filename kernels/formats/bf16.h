#pragma once
// bfloat16: the upper half of a float32. Weights only.

#include <cstddef>
#include <cstdint>

namespace kernels::bf16 {

void dequantize(const std::byte* row, int64_t n, float* out);
void dequantize_fast(const std::byte* row, int64_t n, float* out);
void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);

}  // namespace kernels::bf16
