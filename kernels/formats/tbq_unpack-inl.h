// What the readers of TBQ4_0 and TBQ3_0 share.

#include "kernels/formats/tbq.h"
#include "kernels/simd-inl.h"

#if defined(KERNELS_FORMATS_TBQ_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_TBQ_UNPACK_INL_H_
#undef KERNELS_FORMATS_TBQ_UNPACK_INL_H_
#else
#define KERNELS_FORMATS_TBQ_UNPACK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
// Centroids [kFirst, kFirst + kCount) of a table, again and again: what codes index by their low bits, whatever stands
// above those. The floats are a constant: written and read again they would cost more than all else.
template <const std::array<int8_t, 16>& kTable, size_t kFirst, size_t kCount>
HWY_INLINE VF float_centroids() {
  alignas(64) static constexpr std::array<float, 16> kFloats = [] {
    std::array<float, 16> floats{};
    for (size_t i = 0; i < 16; ++i) {
      floats[i] = static_cast<float>(kTable[kFirst + i % kCount]);
    }
    return floats;
  }();
  return hn::Load(FloatTag(), kFloats.data());
}
template <const std::array<int8_t, 16>& kTable, size_t kFirst, size_t kCount>
HWY_INLINE VF scaled_centroids(float scale) {
  return hn::Mul(hn::Set(FloatTag(), scale), float_centroids<kTable, kFirst, kCount>());
}
#endif

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_TBQ_UNPACK_INL_H_
