// The fast half of a weight format: dequantize_fast and dot_rows (formats.h) of namespace KERNELS_FORMAT, for
// every instruction set and chosen at run time, made of the Loader (weight_row-inl.h) that stands in
// KERNELS_FORMAT::HWY_NAMESPACE. A format's .cc defines KERNELS_FORMAT as its namespace, and includes this
// file after its Loader; it is text, so it has no guard.

#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE {

void dequantize_all(const uint8_t* row, int64_t n, float* out) {
  kernels::HWY_NAMESPACE::dequantize_row<Loader>(row, n, out);
}
void dot_all(const uint8_t* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out) {
  kernels::HWY_NAMESPACE::dot_row_range<Loader>(row, row_bytes, n_rows, x, n, out);
}

}  // namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels::KERNELS_FORMAT {

HWY_EXPORT(dequantize_all);
HWY_EXPORT(dot_all);

void dequantize_fast(const std::byte* row, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(dequantize_all)(reinterpret_cast<const uint8_t*>(row), n, out);
}

void dot_rows(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(dot_all)(reinterpret_cast<const uint8_t*>(row), row_bytes, n_rows, x, n, out);
}

}  // namespace kernels::KERNELS_FORMAT

#endif  // HWY_ONCE
