#include "kernels/formats/bf16.h"

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/bf16.cc"
#define KERNELS_FORMAT bf16
#include "kernels/each_target.h"
#include "kernels/formats/elements-inl.h"
#include "kernels/formats/half.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::bf16::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Elements {
  static constexpr int kSize = 2;
  template <class D>
  static HWY_INLINE hn::Vec<D> at(D d, const uint8_t* p) {
    const hn::Rebind<uint16_t, D> d16;
    const hn::Rebind<uint32_t, D> d32;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, words_at(d16, p))));
  }
};
using Reader = ElementReader<Elements>;

struct Loader {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 64;
  using Block = const uint8_t*;
  static HWY_INLINE Block open(const uint8_t* p) { return p; }
  template <int K>
  static HWY_INLINE VF get(Block b) {
    return Elements::at(FloatTag(), b + 2 * K * kLanes);
  }
  static HWY_INLINE float one(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return f32_from_bf16(bits);
  }
};

}  // namespace

}  // namespace kernels::bf16::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::bf16 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = f32_from_bf16(load_unaligned<uint16_t>(row + 2 * i));
  }
}

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(2 * static_cast<size_t>(head_dim));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* row = page + 2 * static_cast<size_t>(head_dim) * slot;
  for (int i = 0; i < head_dim; ++i) {
    store_unaligned(row + 2 * i, bf16_saturated(x[i]));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  dequantize(page + 2 * static_cast<size_t>(head_dim) * slot0, int64_t{head_dim} * n, out);
}

}  // namespace kernels::bf16

#endif  // HWY_ONCE
