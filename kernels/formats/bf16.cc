#include "kernels/formats/bf16.h"

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/bf16.cc"
#define KERNELS_FORMAT bf16
#include "kernels/each_target.h"
#include "kernels/formats/half.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::bf16::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Loader {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 64;
  using Block = const uint8_t*;
  static HWY_INLINE Block open(const uint8_t* p) { return p; }
  template <int K>
  static HWY_INLINE VF get(Block b) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::Rebind<uint32_t, FloatTag> d32;
    const auto bits = hn::PromoteTo(d32, words_at(d16, b + 2 * K * kLanes));
    return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(bits));
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

#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::bf16 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = f32_from_bf16(load_unaligned<uint16_t>(row + 2 * i));
  }
}

}  // namespace kernels::bf16

#endif  // HWY_ONCE
