#include <algorithm>
#include <limits>

#include "kernels/dots.h"
#include "src/base/check.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dots_quantize.cc"
#include "kernels/each_target.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// The bits of the largest |x|: floats without their sign are ordered as integers, NaNs last.
HWY_INLINE int32_t largest_bits(const float* x, int n) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  auto largest = hn::Zero(di);
  for (int i = 0; i < n; i += kLanes) {
    const auto bits = hn::BitCast(di, hn::LoadU(df, x + i));
    largest = hn::Max(largest, hn::And(bits, hn::Set(di, 0x7fffffff)));
  }
  return hn::GetLane(hn::MaxOfLanes(di, largest));
}

// 16 codes and their sum.
HWY_INLINE int16_t round_codes(const float* x, float inverse, int8_t* q) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<int8_t, FloatTag> d8;
  const auto scale = hn::Set(df, inverse);
  auto sum = hn::Zero(di);
  for (int i = 0; i < 16; i += kLanes) {
    const auto codes = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), scale));
    hn::StoreU(hn::DemoteTo(d8, codes), d8, q + i);
    sum = hn::Add(sum, codes);
  }
  return static_cast<int16_t>(hn::GetLane(hn::SumOfLanes(di, sum)));
}

void quantize_blocks(const float* x, int64_t n, int group, DotBlock* out) {
  constexpr int32_t kInfinity = 0x7f800000, kTiny = 27 << 23;  // 2^-100
  for (int64_t begin = 0; begin < n; begin += kDotValues, ++out) {
    const auto n_block = static_cast<int>(std::min<int64_t>(kDotValues, n - begin));
    if (n_block < kDotValues) {
      *out = DotBlock{};
    }
    for (int first = 0; first < n_block; first += group) {
      const int end = std::min(n_block, first + group);
      const int32_t bits = largest_bits(x + begin + first, end - first);
      if (bits < kTiny || bits >= kInfinity) {
        std::fill(out->q + first, out->q + end, static_cast<int8_t>(0));
        std::fill(out->sums + first / 16, out->sums + end / 16, static_cast<int16_t>(0));
        std::fill(out->d + first / 32, out->d + (first + group) / 32,
                  bits < kTiny ? 0.0F : std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      float largest;
      std::memcpy(&largest, &bits, sizeof largest);
      std::fill(out->d + first / 32, out->d + (first + group) / 32, largest / 127.0F);
      for (int i = first; i < end; i += 16) {
        out->sums[i / 16] = round_codes(x + begin + i, 127.0F / largest, out->q + i);
      }
    }
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(quantize_blocks);

void quantize_dots(const float* x, int64_t n, int group, DotBlock* out) {
  AR_CHECK(n % 32 == 0 && (group == 32 || group == kDotValues), "activations in whole groups");
  HWY_DYNAMIC_DISPATCH(quantize_blocks)(x, n, group, out);
}

}  // namespace kernels

#endif  // HWY_ONCE
