// The Reader (kv_attend-inl.h) of a KV format whose values stand alone, from a struct with
//   kSize      bytes of a value
//   at(d, p)   Lanes(d) values at p

#include "kernels/simd-inl.h"

#if defined(KERNELS_FORMATS_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_ELEMENTS_INL_H_
#undef KERNELS_FORMATS_ELEMENTS_INL_H_
#else
#define KERNELS_FORMATS_ELEMENTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

template <class Elements>
class ElementReader {
 public:
  ElementReader(const std::byte* page, int head_dim)
      : page_(reinterpret_cast<const uint8_t*>(page)), n_(head_dim) {}
  HWY_INLINE void unpack(int slot, float* out) const {
    const FloatTag df;
    const hn::CappedTag<float, 8>
        d8;  // head_dim is a multiple of 8: what whole vectors leave is one of these
    const uint8_t* row = page_ + Elements::kSize * static_cast<size_t>(n_) * slot;
    int i = 0;
    for (; i + kLanes <= n_; i += kLanes) {
      hn::Store(Elements::at(df, row + Elements::kSize * i), df, out + i);
    }
    for (; i < n_; i += static_cast<int>(hn::Lanes(d8))) {
      hn::Store(Elements::at(d8, row + Elements::kSize * i), d8, out + i);
    }
  }

 private:
  const uint8_t* page_;
  int n_;
};

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_ELEMENTS_INL_H_
