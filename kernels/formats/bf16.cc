#include "kernels/formats/bf16.h"

#include "kernels/formats/half.h"

namespace kernels::bf16 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = f32_from_bf16(load_unaligned<uint16_t>(row + 2 * i));
  }
}

void dequantize_fast(const std::byte* row, int64_t n, float* out) {
  dequantize(row, n, out);
}

}  // namespace kernels::bf16
