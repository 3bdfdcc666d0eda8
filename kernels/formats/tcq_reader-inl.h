// The fast reader of TCQ4_0 and TCQ3_0 (kv_attend-inl.h, kv_columns-inl.h).

#include "kernels/formats/kv_page.h"
#include "kernels/formats/tcq.h"
#include "kernels/simd-inl.h"

#if defined(KERNELS_FORMATS_TCQ_READER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_TCQ_READER_INL_H_
#undef KERNELS_FORMATS_TCQ_READER_INL_H_
#else
#define KERNELS_FORMATS_TCQ_READER_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

template <const Trellis& kTrellis>
class TrellisReader {
 public:
  TrellisReader(const std::byte* page, int head_dim)
      : codes_(reinterpret_cast<const uint8_t*>(page)),
        scales_(codes_ + trellis_scale_plane(kTrellis, head_dim)),
        n_(head_dim),
        n_tiles_(tile_count(head_dim)) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const uint8_t* row = row_at(slot);
    const uint8_t* scales = scales_ + 2 * static_cast<size_t>(n_tiles_) * static_cast<size_t>(slot);
    for (int begin = 0; begin < n_; scales += 2) {
      const int d = tile_at(begin, n_);
      unpack_tile(row + begin * kBits / 8, half_at(scales), d, out + begin);
      begin += d;
    }
  }

#if HWY_TARGET == HWY_AVX3
  static constexpr bool kByColumns = true;
  const uint8_t* scales() const {
    return scales_;
  }
  int group_of(int unit) const {
    return tile_of(unit * kBlock, n_);
  }
  template <int U>
  HWY_INLINE void unit(int slot, int first, VF* v) const {
    const int begin = kBlock * (first + U);
    const uint8_t* block = row_at(slot) + begin * kBits / 8;
    v[2 * U] = look_up(windows_at(block, tile_begins(begin, n_)));
    v[2 * U + 1] = look_up(windows_at(block + kStep, false));
  }
#endif

 private:
  static constexpr int kBits = kTrellis.bits;
  static constexpr const TrellisSpread<kBits>& kSpread = kTrellisSpread<kBits>;
  static constexpr int kValues = 16;                 // of a block: what is read together
  static constexpr int kStep = kValues * kBits / 8;  // bytes of a block

  HWY_INLINE const uint8_t* row_at(int slot) const {
    return codes_ + static_cast<size_t>(n_) * kBits / 8 * static_cast<size_t>(slot);
  }

#if HWY_TARGET == HWY_AVX3
  // A block's windows in the low six bits of each lane. Reads 16 bytes: past the row lie others, or the scales.
  static HWY_INLINE __m512i windows_at(const uint8_t* block, bool first) {
    const auto* from = reinterpret_cast<const __m128i*>(first ? block : block - 1);
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(from));
    const __m512i control = _mm512_load_si512(first ? kSpread.wide_first : kSpread.wide_next);
    return _mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, control), _mm512_load_si512(kSpread.shifts));
  }
  static HWY_INLINE VF look_up(__m512i windows) {
    alignas(64) static constexpr std::array<float, kTrellisSize> kFloats = [] {
      std::array<float, kTrellisSize> floats{};
      for (int i = 0; i < kTrellisSize; ++i) {
        floats[i] = kTrellis.integers[i];
      }
      return floats;
    }();
    const auto quarter = [](int i) { return _mm512_load_ps(kFloats.data() + 16 * i); };
    const __m512 low = _mm512_permutex2var_ps(quarter(0), windows, quarter(1));
    const __m512 high = _mm512_permutex2var_ps(quarter(2), windows, quarter(3));
    return VF{_mm512_mask_mov_ps(low, _mm512_test_epi32_mask(windows, _mm512_set1_epi32(32)), high)};
  }
#elif HWY_TARGET != HWY_SCALAR
  // As above, for half a block: each from the two bytes it lies in, moved to their top and down.
  template <int kHalf>
  static HWY_INLINE hn::Vec<hn::Half<hn::Full128<uint8_t> > > half_of(hn::Vec<hn::Full128<uint8_t> > bytes,
                                                                      bool first) {
    const hn::Full128<uint8_t> d8;
    const hn::Full128<uint16_t> d16;
    const auto control = hn::Load(d8, (first ? kSpread.first : kSpread.next) + 16 * kHalf);
    const auto pairs = hn::BitCast(d16, hn::TableLookupBytesOr0(bytes, control));
    const auto windows =
        hn::ShiftRight<16 - kTrellisWindow>(hn::Mul(pairs, hn::Load(d16, kSpread.factors + 8 * kHalf)));
    return hn::DemoteTo(hn::Half<hn::Full128<uint8_t> >(), hn::BitCast(hn::Full128<int16_t>(), windows));
  }
  static HWY_INLINE Bytes16 look_up(const uint8_t* block, bool first) {
    const hn::Full128<uint8_t> d8;
    const auto bytes = hn::LoadU(d8, first ? block : block - 1);
    const auto windows = hn::Combine(d8, half_of<1>(bytes, first), half_of<0>(bytes, first));
#if HWY_TARGET == HWY_NEON
    return Bytes16(vqtbl4q_s8(vld1q_s8_x4(kTrellis.integers), windows.raw));
#else
    const hn::Full128<int8_t> di8;
    const auto low = hn::And(windows, hn::Set(d8, 15));
    const auto quarter = [&](int i) HWY_ATTR {
      return hn::TableLookupBytes(hn::Load(di8, kTrellis.integers + 16 * i), hn::BitCast(di8, low));
    };
    const auto odd = hn::BitCast(di8, hn::And(windows, hn::Set(d8, 16)));
    const auto upper = hn::BitCast(di8, hn::And(windows, hn::Set(d8, 32)));
    const auto is_even = hn::Eq(odd, hn::Zero(di8)), is_lower = hn::Eq(upper, hn::Zero(di8));
    return hn::IfThenElse(is_lower, hn::IfThenElse(is_even, quarter(0), quarter(1)),
                          hn::IfThenElse(is_even, quarter(2), quarter(3)));
#endif
  }
#endif

  static HWY_INLINE void unpack_tile(const uint8_t* tile, float scale, int d, float* out) {
    int i = 0;
#if HWY_TARGET == HWY_AVX3
    for (; i + kValues <= d; i += kValues) {
      const VF values = look_up(windows_at(tile + i * kBits / 8, i == 0));
      hn::Store(hn::Mul(hn::Set(FloatTag(), scale), values), FloatTag(), out + i);
    }
#elif HWY_TARGET != HWY_SCALAR
    const VF scales = hn::Set(FloatTag(), scale);
    for (; i + kValues <= d; i += kValues) {
      store_scaled(look_up(tile + i * kBits / 8, i == 0), scales, out + i);
    }
#endif
    for (; i < d; ++i) {
      out[i] = scale * static_cast<float>(kTrellis.integers[trellis_window(tile, kBits, i)]);
    }
  }

  const uint8_t* codes_;
  const uint8_t* scales_;
  int n_, n_tiles_;
};

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_TCQ_READER_INL_H_
