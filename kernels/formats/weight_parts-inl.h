// The Loader (weight_row-inl.h) of a format in parts (parts.h), from its Layout and a struct with
//   at(block, part)  the part's codes in two vectors
// which is PlainCodes where the format has no faster way (and where vectors have one lane).

#include "kernels/formats/parts.h"
#include "kernels/formats/weight_row-inl.h"

#if defined(KERNELS_FORMATS_WEIGHT_PARTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_WEIGHT_PARTS_INL_H_
#undef KERNELS_FORMATS_WEIGHT_PARTS_INL_H_
#else
#define KERNELS_FORMATS_WEIGHT_PARTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

struct Bytes32 {
  int8_t codes[kPart];
};

template <class Layout>
struct PlainCodes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    Bytes32 bytes;
    Layout::codes(block, part, bytes.codes);
    return bytes;
  }
};

template <class Layout>
using PointCodes = PlainCodes<Layout>;

template <int K>
HWY_INLINE VF piece_of(const Bytes32& bytes) {
  return hn::Set(FloatTag(), static_cast<float>(bytes.codes[K]));
}

#else

struct Bytes32 {
  Bytes16 low, high;  // values 0-15, 16-31
};

template <int K>
HWY_INLINE VF piece_of(const Bytes32& bytes) {
  constexpr int kPerHalf = 16 / kLanes;
  return bytes_piece<K % kPerHalf>(K < kPerHalf ? bytes.low : bytes.high);
}

template <class Layout>
struct PlainCodes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const hn::Full128<int8_t> d8;
    alignas(16) int8_t codes[kPart];
    Layout::codes(block, part, codes);
    return {hn::Load(d8, codes), hn::Load(d8, codes + 16)};
  }
};

// What fast codes are made of: 16 bytes of bits.
using Bits16 = hn::Vec<hn::Full128<uint8_t>>;

HWY_INLINE Bits16 bits_at(const uint8_t* p) {
  return hn::LoadU(hn::Full128<uint8_t>(), p);
}

// Every byte shifted down, then masked; the mask has at most 8 - shift bits.
HWY_INLINE Bits16 field(Bits16 v, int shift, uint8_t mask) {
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint16_t> d16;
  return hn::And(hn::BitCast(d8, hn::ShiftRightSame(hn::BitCast(d16, v), shift)), hn::Set(d8, mask));
}

// Every byte shifted up; the bits that leave it must be zeros.
template <int kShift>
HWY_INLINE Bits16 raised(Bits16 v) {
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint16_t> d16;
  return hn::BitCast(d8, hn::ShiftLeft<kShift>(hn::BitCast(d16, v)));
}

HWY_INLINE Bytes16 minus(Bits16 v, int8_t zero) {
  const hn::Full128<int8_t> d8;
  return hn::Sub(hn::BitCast(d8, v), hn::Set(d8, zero));
}

// `value` in byte i where bit i of `bits` is set, else 0.
HWY_INLINE Bits16 spread(uint16_t bits, uint8_t value) {
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint16_t> d16;
  alignas(16) static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  alignas(16) static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const auto bit = hn::Load(d8, kBit);
  const auto bytes = hn::TableLookupBytes(hn::BitCast(d8, hn::Set(d16, bits)), hn::Load(d8, kByte));
  return hn::IfThenElseZero(hn::Eq(hn::And(bytes, bit), bit), hn::Set(d8, value));
}

// table[v] for values under 16; table is aligned to 16.
HWY_INLINE Bytes16 looked_up(const int8_t* table, Bits16 v) {
  const hn::Full128<int8_t> d8;
  return hn::TableLookupBytes(hn::Load(d8, table), hn::BitCast(d8, v));
}

// Blocks of 16 bytes that hold value i in the low nibble of byte i and value i + 16 in the high one.
struct Nibbles {
  Bits16 low, high;
};
HWY_INLINE Nibbles nibbles_at(const uint8_t* p) {
  const Bits16 bytes = bits_at(p);
  return {field(bytes, 0, 15), field(bytes, 4, 15)};
}

// Such a block's codes where each nibble is an index into a table of 16.
HWY_INLINE Bytes32 looked_up_nibbles(const int8_t* table, const uint8_t* p) {
  const Nibbles q = nibbles_at(p);
  return {looked_up(table, q.low), looked_up(table, q.high)};
}

// 16 magnitudes, lowest byte first, and their signs.
HWY_INLINE Bytes16 with_signs(uint64_t low, uint64_t high, uint16_t signs) {
  const hn::Full128<int8_t> d8;
  const hn::Full128<uint64_t> d64;
  const auto v = hn::BitCast(d8, hn::InterleaveLower(d64, hn::Set(d64, low), hn::Set(d64, high)));
  const auto minus = hn::BitCast(d8, spread(signs, 255));
  return hn::Sub(hn::Xor(v, minus), minus);
}

// For the Layouts of iq_grids.h.
template <class Layout>
struct PointCodes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const uint32_t signs = Layout::signs(block, part);
    return {with_signs(Layout::magnitudes(block, part, 0), Layout::magnitudes(block, part, 1),
                       static_cast<uint16_t>(signs)),
            with_signs(Layout::magnitudes(block, part, 2), Layout::magnitudes(block, part, 3),
                       static_cast<uint16_t>(signs >> 16))};
  }
};

#endif  // HWY_TARGET == HWY_SCALAR

template <class Layout, class Codes = PlainCodes<Layout>>
struct PartLoader {
  static constexpr bool kElements = false;
  static constexpr int kBytes = Layout::kBlockBytes;
  static constexpr int kParts = Layout::kBlockValues / kPart;
  struct Block {
    Bytes32 codes;
    VF scale0, scale1, min0, min1;  // of values 0-15 and 16-31
  };
  static HWY_INLINE Block open(const uint8_t* block, int part) {
    const FloatTag df;
    const Multipliers m = Layout::multipliers(block, part);
    VF d;
    if constexpr (requires { Layout::factor(block); }) {
      d = hn::Set(df, Layout::factor(block));
    } else {
      d = half_in_all(block + Layout::kScaleAt);
    }
    const VF scale0 = hn::Mul(d, hn::Set(df, static_cast<float>(m.scale[0]) * Layout::kUnit));
    const VF scale1 = hn::Mul(d, hn::Set(df, static_cast<float>(m.scale[1]) * Layout::kUnit));
    if constexpr (Layout::kMinAt >= 0) {
      const VF dmin = half_in_all(block + Layout::kMinAt);
      return {Codes::at(block, part), scale0, scale1,
              hn::Mul(dmin, hn::Set(df, static_cast<float>(m.min[0]))),
              hn::Mul(dmin, hn::Set(df, static_cast<float>(m.min[1])))};
    } else {
      return {Codes::at(block, part), scale0, scale1, hn::Zero(df), hn::Zero(df)};
    }
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    constexpr bool kFirst = K * kLanes < 16;
    const VF code = piece_of<K>(b.codes);
    if constexpr (Layout::kMinAt >= 0) {
      return hn::MulSub(kFirst ? b.scale0 : b.scale1, code, kFirst ? b.min0 : b.min1);
    } else {
      return hn::Mul(kFirst ? b.scale0 : b.scale1, code);
    }
  }
};

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_WEIGHT_PARTS_INL_H_
