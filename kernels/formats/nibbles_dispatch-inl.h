// All of a format made of nibbles (nibbles.h): weights and KV pages, their specification and their fast half, for
// every instruction set and chosen at run time, from the Code in namespace KERNELS_FORMAT. A format's .cc defines
// KERNELS_FORMAT and includes this; it is text, so it has no guard.

#include "kernels/formats/nibbles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE {

using Loader = kernels::HWY_NAMESPACE::NibbleLoader<Code>;
using Reader = kernels::HWY_NAMESPACE::NibbleReader<Code>;

}  // namespace kernels::KERNELS_FORMAT::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::KERNELS_FORMAT {

void dequantize(const std::byte* row, int64_t n, float* out) {
  dequantize_parts<NibbleLayout<Code>>(reinterpret_cast<const uint8_t*>(row), n, out);
}

void quantize(const float* values, int64_t n, std::byte* row) {
  quantize_nibbles<Code>(values, n, reinterpret_cast<uint8_t*>(row));
}

size_t page_bytes(int head_dim) {
  return NibblePage<Code>(head_dim).bytes();
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  write_nibbles<Code>(x, head_dim, reinterpret_cast<uint8_t*>(page), slot);
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  load_nibbles<Code>(reinterpret_cast<const uint8_t*>(page), head_dim, slot0, n, out);
}

}  // namespace kernels::KERNELS_FORMAT

#endif  // HWY_ONCE
