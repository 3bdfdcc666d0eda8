#pragma once
// Tile loaders of KV types. Those of integers unpack units of n = 32 values (16 at the end of heads like 80), "pairs" at
// a time: the four values from 4k and the four from n / 2 + 4k, k < n / 8, which lie together in most packed formats.
// Such a loader is a struct with
//   kElements                    false
//   kTiles                       groups that share a scale: tiles of the rotation; else units
//   kOffset, kMost               value = scale * (integer - kOffset), |integer - kOffset| <= kMost
//   kMins                        a minimum is added
//   load_unit(row, begin, n)     the bytes of a unit; pick(unit, n, k): those of pair k (k a constant of the code)
//   load_pair(row, begin, n, k)  the bytes of pair k alone
//   unpack(pair, n, k, a, b)     both fours of pair k: int8, or bytes from 0 where kOffset is not 0 or there is a minimum
// One of floats has kElements = true, kBytes of a value, four of them as they lie in memory, and floats(four).

#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/weights.cuh"
#include "kernels/formats/iq4_nl.h"
#include "kernels/formats/tcq.h"

namespace kernels::cuda {

inline constexpr int kUnitValues = 32;

struct RawUnit {
  uint32_t w[8];
  uint32_t top;
};
struct RawPair {
  uint32_t a, b;
};

__device__ __forceinline__ void load_16(Global<const uint8_t> p, uint32_t* out) {
  const uint4 v = load<uint4>(p);
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
// A bit for each value of a unit; rows of heads like 80 are aligned to two bytes.
__device__ __forceinline__ uint32_t load_bits(Global<const uint8_t> top, int begin, int n) {
  const Global<const uint8_t> p = top + begin / 8;
  return load<uint16_t>(p) | (n == 32 ? uint32_t{load<uint16_t>(p + 2)} << 16 : 0U);
}

// ---- Nibbles ----

struct PlainNibbles {
  static __device__ __forceinline__ void split(uint32_t word, uint32_t* a, uint32_t* b) {
    *a = word & kNibbles;
    *b = word >> 4 & kNibbles;
  }
};
struct Tbq4Nibbles {
  static __device__ __forceinline__ void split(uint32_t word, uint32_t* a, uint32_t* b) {
    constexpr Table16 kTable = words_of(kTbq4Table);
    look_up16(word, kTable, a, b);
  }
};
struct Iq4Nibbles {
  static __device__ __forceinline__ void split(uint32_t word, uint32_t* a, uint32_t* b) {
    constexpr Table16 kTable = words_of(iq4_nl::kValues);
    look_up16(word, kTable, a, b);
  }
};

template <class Nibbles, int kOffsetIs, int kMostIs, bool kFifth = false, bool kMin = false,
          bool kTile = false>
struct NibbleLoader {
  static constexpr bool kElements = false, kTiles = kTile, kMins = kMin;
  static constexpr int kOffset = kOffsetIs, kMost = kMostIs;
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    const Global<const uint8_t> p = row.codes + begin / 2;
    if constexpr (kFifth) {
      raw.top = load_bits(row.top, begin, n);
    }
    if ((address_of(p) & 15U) == 0 && n == 32) {
      load_16(p, raw.w);
      return raw;
    }
    AR_UNROLL
    for (int k = 0; k < 4; ++k) {
      raw.w[k] = k < n / 8 ? load<uint32_t>(p + 4 * k) : 0;
    }
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int /*n*/, int k) {
    return {unit.w[k], unit.top};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load<uint32_t>(row.codes + (begin / 2 + 4 * k)), kFifth ? load_bits(row.top, begin, n) : 0};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int n, int k, uint32_t* a, uint32_t* b) {
    Nibbles::split(pair.a, a, b);
    if constexpr (kFifth) {
      *a |= spread_bits(pair.b >> (4 * k)) << 4;
      *b |= spread_bits(pair.b >> (n / 2 + 4 * k)) << 4;
    }
  }
};
using KvQ4_0 = NibbleLoader<PlainNibbles, 8, 8>;
using KvQ4_1 = NibbleLoader<PlainNibbles, 0, 15, false, true>;
using KvQ5_0 = NibbleLoader<PlainNibbles, 16, 16, true>;
using KvQ5_1 = NibbleLoader<PlainNibbles, 0, 31, true, true>;
using KvIq4Nl = NibbleLoader<Iq4Nibbles, 0, 127>;
using KvTbq4 = NibbleLoader<Tbq4Nibbles, 0, 127, false, false, true>;

// ---- Other integers ----

struct KvQ8_0 {
  static constexpr bool kElements = false, kTiles = false, kMins = false;
  static constexpr int kOffset = 0, kMost = 128;
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    load_16(row.codes + begin, raw.w);
    if (n == 32) {
      load_16(row.codes + (begin + 16), raw.w + 4);
    }
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int n, int k) {
    return {unit.w[k], n == 32 ? unit.w[k + 4] : unit.w[k % 2 + 2]};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load<uint32_t>(row.codes + (begin + 4 * k)), load<uint32_t>(row.codes + (begin + n / 2 + 4 * k))};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int /*n*/, int /*k*/, uint32_t* a,
                                                uint32_t* b) {
    *a = pair.a;
    *b = pair.b;
  }
};

// Pairs: a word of the lower bits, and the unit's third bits.
struct KvTbq3 {
  static constexpr bool kElements = false, kTiles = true, kMins = false;
  static constexpr int kOffset = 0, kMost = 127;
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    const Global<const uint8_t> low = row.codes + begin / 4;
    raw.w[0] = load<uint32_t>(low);
    raw.w[1] = n == 32 ? load<uint32_t>(low + 4) : 0;
    raw.top = load_bits(row.top, begin, n);
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int n, int k) {
    return {n == 32 ? unit.w[k % 2] : unit.w[0], unit.top};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load<uint32_t>(row.codes + (begin / 4 + (n == 32 ? k % 2 * 4 : 0))),
            load_bits(row.top, begin, n)};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int n, int k, uint32_t* a, uint32_t* b) {
    const int field = n == 32 ? k / 2 : k;  // values b, b + n / 4, b + n / 2 and b + 3n / 4 share a byte
    *a = look_up8(pair.a >> (2 * field), pair.b >> (4 * k));
    *b = look_up8(pair.a >> (2 * field + 4), pair.b >> (n / 2 + 4 * k));
  }

 private:
  // The lowest two bits of each byte and the lowest four of `third`: four indices into eight centroids.
  static __device__ __forceinline__ uint32_t look_up8(uint32_t two, uint32_t third) {
    constexpr Table16 kTable = words_of(kTbq3Table);
    uint32_t index = (two & 0x03030303U) | spread_bits(third) << 2;
    index = (index | index >> 4) & 0x00ff00ffU;  // a nibble each
    return __byte_perm(kTable.w[0], kTable.w[1], index | index >> 8);
  }
};

// ---- Trellises ----

struct Table64 {
  Table16 quarter[4];
};
constexpr Table64 words_of(const Trellis& trellis) {
  Table64 out{};
  for (int i = 0; i < kTrellisSize; ++i) {
    out.quarter[i / 16].w[i % 16 / 4] |= uint32_t{static_cast<uint8_t>(trellis.integers[i])} << (8 * (i % 4));
  }
  return out;
}
inline constexpr Table64 kTrellis4Words = words_of(kTrellis4), kTrellis3Words = words_of(kTrellis3);

// The lowest bits of each byte as a nibble each, in the lower half of a word.
__device__ __forceinline__ uint32_t nibble_each(uint32_t bytes) {
  const uint32_t pairs = (bytes | bytes >> 4) & 0x00ff00ffU;
  return pairs | pairs >> 8;
}
// Four windows, a byte each: their integers. A selector has three bits of index: eighths are looked up, then chosen.
template <const Table64& kTable>
__device__ __forceinline__ uint32_t look_up64(uint32_t windows) {
  constexpr Table64 kWords = kTable;
  const uint32_t index = nibble_each(windows & 0x0f0f0f0fU), upper = nibble_each(windows >> 4 & 0x03030303U);
  const uint32_t fourth = 0x3210U | (index & 0x8888U) >> 1;
  uint32_t of[4];
  AR_UNROLL
  for (int i = 0; i < 4; ++i) {
    of[i] = __byte_perm(__byte_perm(kWords.quarter[i].w[0], kWords.quarter[i].w[1], index & 0x7777U),
                        __byte_perm(kWords.quarter[i].w[2], kWords.quarter[i].w[3], index & 0x7777U), fourth);
  }
  const uint32_t fifth = 0x3210U | (upper & 0x1111U) << 2, sixth = 0x3210U | (upper & 0x2222U) << 1;
  return __byte_perm(__byte_perm(of[0], of[1], fifth), __byte_perm(of[2], of[3], fifth), sixth);
}

// Pairs: the bits of four windows each, the first window's lowest. A window reaches kBefore bits before its own; a unit
// keeps the byte before it in `top`, zero where a tile begins.
template <const Trellis& kTrellis, const Table64& kTable>
struct TrellisLoader {
  static constexpr bool kElements = false, kTiles = true, kMins = false;
  static constexpr int kOffset = 0, kMost = 127;
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    const Global<const uint8_t> p = row.codes + begin * kBits / 8;
    raw.top = starts(row, begin) ? 0U : uint32_t{p[-1]} << 24;
    if (n == 32) {
      load_words<kBits>(p, raw.w);
      return raw;
    }
    AR_UNROLL
    for (int i = 0; i < kBits; ++i) {
      raw.w[i / 2] |= uint32_t{load<uint16_t>(p + 2 * i)} << (i % 2 * 16);
    }
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int n, int k) {
    const int a = 4 * kBits * k;
    return {bits_of(unit, a), n == 32 ? bits_of(unit, a + 16 * kBits) : bits_of(unit, a + 8 * kBits)};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load_bits_of(row, begin, 4 * k), load_bits_of(row, begin, n / 2 + 4 * k)};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int /*n*/, int /*k*/, uint32_t* a,
                                                uint32_t* b) {
    *a = look_up(pair.a);
    *b = look_up(pair.b);
  }

 private:
  static constexpr int kBits = kTrellis.bits, kBefore = kTrellisWindow - kBits;
  static __device__ __forceinline__ bool starts(const SlotRow& row, int begin) {
    return (row.starts >> (begin / kUnitValues) & 1U) != 0;
  }
  // From kBefore bits before bit `at` of the unit on (a constant of the code).
  static __device__ __forceinline__ uint32_t bits_of(const RawUnit& unit, int at) {
    const int first = at - kBefore;
    if (first < 0) {
      return __funnelshift_r(unit.top, unit.w[0], static_cast<uint32_t>(32 + first));
    }
    return __funnelshift_r(unit.w[first / 32], unit.w[first / 32 + 1], static_cast<uint32_t>(first % 32));
  }
  // The same for value `value` of the unit: rows are aligned to two bytes.
  static __device__ __forceinline__ uint32_t load_bits_of(const SlotRow& row, int begin, int value) {
    const int first = kBits * value - kBefore, from = first < 0 ? -2 : first / 16 * 2,
              shift = first - 8 * from;
    const Global<const uint8_t> p = row.codes + (begin * kBits / 8 + from);
    uint32_t bits = from < 0 && starts(row, begin) ? 0U : load<uint16_t>(p);
    if (shift + kBefore + 4 * kBits > 16) {
      bits |= uint32_t{load<uint16_t>(p + 2)} << 16;
    }
    return bits >> shift;
  }
  static __device__ __forceinline__ uint32_t look_up(uint32_t bits) {
    uint32_t windows = 0;
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      windows |= (bits >> (kBits * i) & (kTrellisSize - 1)) << (8 * i);
    }
    return look_up64<kTable>(windows);
  }
};
using KvTcq4 = TrellisLoader<kTrellis4, kTrellis4Words>;
using KvTcq3 = TrellisLoader<kTrellis3, kTrellis3Words>;

// ---- Elements: floats as they are ----

struct KvF16 {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 2;
  using Four = uint2;  // as they lie there
  static __device__ __forceinline__ float4 floats(const Four& v) {
    return {half_to_float(static_cast<uint16_t>(v.x)), half_to_float(static_cast<uint16_t>(v.x >> 16)),
            half_to_float(static_cast<uint16_t>(v.y)), half_to_float(static_cast<uint16_t>(v.y >> 16))};
  }
};
struct KvBf16 {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 2;
  using Four = uint2;
  static __device__ __forceinline__ float4 floats(const Four& v) {
    return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000U), __uint_as_float(v.y << 16),
            __uint_as_float(v.y & 0xffff0000U)};
  }
};
struct KvF32 {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 4;
  using Four = float4;
  static __device__ __forceinline__ float4 floats(const Four& v) { return v; }
};
template <class Element>
__device__ __forceinline__ float4 load_four(Global<const uint8_t> p) {
  return Element::floats(load<typename Element::Four>(p));
}

// body.operator()<Loader>() of a type.
template <class Body>
__device__ __forceinline__ void with_loader(KvType type, const Body& body) {
  switch (type) {
    case KvType::kF32:
      return body.template operator()<KvF32>();
    case KvType::kF16:
      return body.template operator()<KvF16>();
    case KvType::kBf16:
      return body.template operator()<KvBf16>();
    case KvType::kQ8_0:
      return body.template operator()<KvQ8_0>();
    case KvType::kQ5_1:
      return body.template operator()<KvQ5_1>();
    case KvType::kQ5_0:
      return body.template operator()<KvQ5_0>();
    case KvType::kQ4_1:
      return body.template operator()<KvQ4_1>();
    case KvType::kQ4_0:
      return body.template operator()<KvQ4_0>();
    case KvType::kIq4Nl:
      return body.template operator()<KvIq4Nl>();
    case KvType::kTbq4_0:
      return body.template operator()<KvTbq4>();
    case KvType::kTbq3_0:
      return body.template operator()<KvTbq3>();
    case KvType::kTcq4_0:
      return body.template operator()<KvTcq4>();
    case KvType::kTcq3_0:
      return body.template operator()<KvTcq3>();
  }
}

}  // namespace kernels::cuda
