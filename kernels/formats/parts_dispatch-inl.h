// Everything a weight format in parts has: its specification, from the Layout in KERNELS_FORMAT, and its fast
// half, from the Loader (weight_dispatch-inl.h).

#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::KERNELS_FORMAT {

void dequantize(const std::byte* row, int64_t n, float* out) {
  dequantize_parts<Layout>(reinterpret_cast<const uint8_t*>(row), n, out);
}

}  // namespace kernels::KERNELS_FORMAT

#endif  // HWY_ONCE
