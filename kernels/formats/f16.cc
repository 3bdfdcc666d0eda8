#include "kernels/formats/f16.h"

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/f16.cc"
#define KERNELS_FORMAT f16
#include "kernels/each_target.h"
#include "kernels/formats/elements-inl.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::f16::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Loader {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 64;
  using Block = const uint8_t*;
  static HWY_INLINE Block open(const uint8_t* p) { return p; }
  template <int K>
  static HWY_INLINE VF get(Block b) {
    return halves_at(FloatTag(), b + 2 * K * kLanes);
  }
  static HWY_INLINE float one(const uint8_t* p) { return half_at(p); }
};

struct Elements {
  static constexpr int kSize = 2;
  template <class D>
  static HWY_INLINE hn::Vec<D> at(D d, const uint8_t* p) {
    return halves_at(d, p);
  }
};
using Reader = ElementReader<Elements>;

}  // namespace

// row[0..2n) = x as fp16, saturated.
void write_all(const float* x, int n, uint8_t* row) {
  int i = 0;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
  const FloatTag df;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  const hn::Rebind<uint16_t, FloatTag> d16;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(df, x + i);
    const VF inside = hn::Clamp(v, hn::Set(df, -kF16Max), hn::Set(df, kF16Max));
    const VF kept = hn::IfThenElse(hn::Eq(v, v), inside, v);  // NaN stays NaN
    hn::StoreU(hn::BitCast(d16, hn::DemoteTo(half, kept)), d16, reinterpret_cast<uint16_t*>(row + 2 * i));
  }
#endif
  for (; i < n; ++i) {
    store_unaligned(reinterpret_cast<std::byte*>(row + 2 * i), f16_saturated(x[i]));
  }
}

}  // namespace kernels::f16::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::f16 {

HWY_EXPORT(write_all);

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = f32_from_f16(load_unaligned<uint16_t>(row + 2 * i));
  }
}

void quantize(const float* values, int64_t n, std::byte* row) {
  for (int64_t i = 0; i < n; ++i) {
    store_unaligned(row + 2 * i, f16_from_f32(values[i]));
  }
}

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(2 * static_cast<size_t>(head_dim));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* row = page + 2 * static_cast<size_t>(head_dim) * slot;
  HWY_DYNAMIC_DISPATCH(write_all)(x, head_dim, reinterpret_cast<uint8_t*>(row));
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  dequantize(page + 2 * static_cast<size_t>(head_dim) * slot0, int64_t{head_dim} * n, out);
}

}  // namespace kernels::f16

#endif  // HWY_ONCE
