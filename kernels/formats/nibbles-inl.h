// The fast readers of the formats in nibbles.h, from their Code alone.

#include "kernels/formats/nibbles.h"
#include "kernels/formats/weight_parts-inl.h"

#if defined(KERNELS_FORMATS_NIBBLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_NIBBLES_INL_H_
#undef KERNELS_FORMATS_NIBBLES_INL_H_
#else
#define KERNELS_FORMATS_NIBBLES_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// 32 values from where their scales, nibbles and fifth bits stand.
template <class Code>
struct NibbleValues {
#if HWY_TARGET == HWY_AVX3
  // The 16 values codes can stand for fill one register, those with the fifth bit another: a code is an index into
  // them, whatever stands above its four bits, and the fifth bits are the mask that chooses.
  struct Block {
    VF values, values_top;
    const uint8_t* nibbles;
    uint32_t top;
  };
  static HWY_INLINE VF table(const uint8_t* scales, size_t first) {
    const FloatTag df;
    alignas(64) static constexpr std::array<float, Code::kIntegers.size()> kTable = [] {
      std::array<float, Code::kIntegers.size()> floats{};
      for (size_t i = 0; i < floats.size(); ++i) {
        floats[i] = static_cast<float>(Code::kIntegers[i]);
      }
      return floats;
    }();
    const VF integers = hn::Load(df, kTable.data() + first);
    if constexpr (Code::kMin) {
      return hn::MulAdd(half_in_all(scales), integers, half_in_all(scales + 2));
    } else {
      return hn::Mul(half_in_all(scales), integers);
    }
  }
  static HWY_INLINE Block block(const uint8_t* scales, const uint8_t* nibbles, uint32_t top) {
    return {table(scales, 0), kHasTop<Code> ? table(scales, kHasTop<Code> ? 16 : 0) : hn::Zero(FloatTag()),
            nibbles, top};
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    const auto bytes = hn::PromoteTo(di, hn::LoadU(d8, b.nibbles));
    const auto codes = K == 0 ? bytes : hn::ShiftRight<4>(bytes);
    const auto low = _mm512_permutexvar_ps(codes.raw, b.values.raw);
    if constexpr (kHasTop<Code>) {
      const auto mask = static_cast<__mmask16>(b.top >> 16 * K);
      return VF{_mm512_mask_permutexvar_ps(low, mask, codes.raw, b.values_top.raw)};
    } else {
      return VF{low};
    }
  }
#else
  struct Block {
    Bytes32 integers;
    VF d, m;
  };
  static HWY_INLINE Block block(const uint8_t* scales, const uint8_t* nibbles, uint32_t top) {
    const VF d = half_in_all(scales);
    if constexpr (Code::kMin) {
      return {integers_of(nibbles, top), d, half_in_all(scales + 2)};
    } else {
      return {integers_of(nibbles, top), d, hn::Zero(FloatTag())};
    }
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    if constexpr (Code::kMin) {
      return hn::MulAdd(b.d, piece_of<K>(b.integers), b.m);
    } else {
      return hn::Mul(b.d, piece_of<K>(b.integers));
    }
  }

 private:
  static HWY_INLINE Bytes32 integers_of(const uint8_t* nibbles, uint32_t top) {
#if HWY_TARGET == HWY_SCALAR
    Bytes32 bytes;
    for (int i = 0; i < kPart; ++i) {
      const int code = (i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4) | static_cast<int>(top >> i & 1)
                                                                               << 4;
      bytes.codes[i] = Code::kIntegers[static_cast<size_t>(code)];
    }
    return bytes;
#else
    if constexpr (kHasTop<Code>) {
      const Nibbles q = nibbles_at(nibbles);
      constexpr auto kZero = static_cast<int8_t>(-Code::kIntegers[0]);
      return {minus(hn::Or(q.low, spread(static_cast<uint16_t>(top), 16)), kZero),
              minus(hn::Or(q.high, spread(static_cast<uint16_t>(top >> 16), 16)), kZero)};
    } else {
      (void)top;
      return looked_up_nibbles(Code::kIntegers.data(), nibbles);
    }
#endif
  }
#endif
};

// Of a weight row (weight_row-inl.h).
template <class Code>
struct NibbleLoader : NibbleValues<Code> {
  using Layout = NibbleLayout<Code>;
  using Block = typename NibbleValues<Code>::Block;
  static constexpr bool kElements = false;
  static constexpr int kBytes = Layout::kBlockBytes;
  static HWY_INLINE Block open(const uint8_t* p) {
    return NibbleValues<Code>::block(p, p + Layout::kNibblesAt,
                                     kHasTop<Code> ? u32_at(p + Layout::kTopAt) : 0);
  }
};

// Of a KV page (kv_attend-inl.h).
template <class Code>
class NibbleReader {
 public:
  NibbleReader(const std::byte* page, int head_dim)
      : page_(reinterpret_cast<const uint8_t*>(page)), planes_(head_dim), n_(head_dim) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const auto row = planes_.row(slot);
    const uint8_t* nibbles = page_ + row.nibbles;
    const uint8_t* top = page_ + row.top;
    const uint8_t* scales = page_ + row.scales;
    int i = 0;
    for (; i + kBlock <= n_; i += kBlock, scales += NibblePage<Code>::kScaleBytes) {
      const uint32_t bits = kHasTop<Code> ? u32_at(top + i / 8) : 0;
      block_store<NibbleLoader<Code>>(NibbleValues<Code>::block(scales, nibbles + i / 2, bits), out + i);
    }
    if (i < n_) {
      unpack_rest(scales, nibbles + i / 2, top + i / 8, n_ - i, out + i);
    }
  }

 private:
  // A shorter group, taken for a whole one whose halves lie further apart. The bytes beyond it are of the page, whose
  // scales come last.
  HWY_INLINE void unpack_rest(const uint8_t* scales, const uint8_t* nibbles, const uint8_t* top, int n,
                              float* out) const {
    uint32_t bits = 0;
    for (int i = 0; i < n / 8 && kHasTop<Code>; ++i) {
      bits |= uint32_t{top[i]} << 8 * i;
    }
    const int half = n / 2;
    bits = (bits & 0xffffU) | bits >> half << 16;
    alignas(64) float values[kBlock];
    block_store<NibbleLoader<Code>>(NibbleValues<Code>::block(scales, nibbles, bits), values);
    std::memcpy(out, values, sizeof(float) * static_cast<size_t>(half));
    std::memcpy(out + half, values + kBlock / 2, sizeof(float) * static_cast<size_t>(half));
  }

  const uint8_t* page_;
  NibblePage<Code> planes_;
  int n_;
};

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_NIBBLES_INL_H_
