#pragma once
// Tile loaders of weight formats with integer dots. A block is cut into units of 32 codes, each the work of one lane at a
// time: two halves of 16 values that follow one another. A loader is a struct with
//   kValues, kBytes           of a block
//   kUnits                    of a block: kValues / 32
//   kMins                     whether the format has minimums
//   load(block, unit)         the Unit
// value = d * scale * (code - kOffset) - dmin * min, as in formats/parts.h.

#include "kernels/cuda/device.cuh"
#include "kernels/formats/iq4_nl.h"

namespace kernels::cuda {

struct Unit {
  uint32_t codes[8];  // int8 each: words 0-3 the first half, 4-7 the second
  int at[2];          // of the halves in the block
  int scale[2], min[2];
  float d, dmin;
};

__device__ __forceinline__ int byte_at(Global<const uint8_t> p) {
  return p[0];
}
__device__ __forceinline__ float half_at(Global<const uint8_t> p) {
  return half_to_float(load<uint16_t>(p));
}
// N words at an address that is a multiple of two alone; the buffer is aligned to four and nothing past the words is
// touched but the rest of the last one's four bytes.
template <int N>
__device__ __forceinline__ void load_words(Global<const uint8_t> p, uint32_t* out) {
  const auto past = static_cast<int>(address_of(p) & 3U);  // 0 or 2
  const Global<const uint8_t> base = p - past;
  uint32_t words[N + 1];
  AR_UNROLL
  for (int i = 0; i < N; ++i) {
    words[i] = load<uint32_t>(base + 4 * i);
  }
  // The last needs two bytes of the next word only, which may be another buffer's.
  words[N] = past == 0 ? 0U : load<uint16_t>(base + 4 * N);
  AR_UNROLL
  for (int i = 0; i < N; ++i) {
    out[i] = __funnelshift_r(words[i], words[i + 1], static_cast<uint32_t>(8 * past));
  }
}

constexpr uint32_t kNibbles = 0x0f0f0f0fU;

// The 16 bytes of a table as words, so that they are constants of the code.
struct Table16 {
  uint32_t w[4];
};
template <class Table>
constexpr Table16 words_of(const Table& table) {
  Table16 out{};
  for (int i = 0; i < 16; ++i) {
    out.w[i / 4] |= uint32_t{static_cast<uint8_t>(table[static_cast<size_t>(i)])} << (8 * (i % 4));
  }
  return out;
}

// Looks up the eight nibbles of a word: the low ones of its bytes into `low`, the high ones into `high`.
__device__ __forceinline__ void look_up16(uint32_t word, Table16 table, uint32_t* low, uint32_t* high) {
  // A selector has three bits of index: both halves of the table are looked up, bit 3 chooses between them. The four
  // nibbles of a half word are neighbours in its two bytes: low, high, low, high.
  const uint32_t index = word & 0x77777777U, choice = 0x32103210U | (word & 0x88888888U) >> 1;
  const uint32_t a = __byte_perm(__byte_perm(table.w[0], table.w[1], index),
                                 __byte_perm(table.w[2], table.w[3], index), choice);
  const uint32_t b = __byte_perm(__byte_perm(table.w[0], table.w[1], index >> 16),
                                 __byte_perm(table.w[2], table.w[3], index >> 16), choice >> 16);
  *low = __byte_perm(a, b, 0x6420);
  *high = __byte_perm(a, b, 0x7531);
}

__device__ __forceinline__ void split_nibbles(const uint32_t* words, uint32_t* codes) {
  AR_UNROLL
  for (int i = 0; i < 4; ++i) {
    codes[i] = words[i] & kNibbles;
    codes[4 + i] = words[i] >> 4 & kNibbles;
  }
}

// Four bytes, kBias too large, as floats: a byte under the exponent of 2^23.
template <int kBias>
__device__ __forceinline__ void to_floats(uint32_t bytes, float* out) {
  constexpr float kTaken = 8388608.0F + kBias;
  AR_UNROLL
  for (int i = 0; i < 4; ++i) {
    out[i] = __uint_as_float(__byte_perm(bytes, 0x4b000000U, 0x7440U + static_cast<uint32_t>(i))) - kTaken;
  }
}

struct Q8_0 {
  static constexpr int kValues = 32, kBytes = 34, kUnits = 1, kOffset = 0;
  static constexpr bool kMins = false;
  static __device__ Unit load(Global<const uint8_t> block, int /*unit*/) {
    Unit u{{}, {0, 16}, {1, 1}, {}, half_at(block), 0};
    load_words<8>(block + 2, u.codes);
    return u;
  }
};

// Four bits of a word's lowest, one to the bottom of each byte.
__device__ __forceinline__ uint32_t spread_bits(uint32_t bits) {
  return ((bits & 15U) * 0x00204081U) & 0x01010101U;
}

// Q4_0, Q4_1, Q5_0 and Q5_1: nibbles, with a minimum and fifth bits where there are any. A minimum is added there.
template <bool kMin, bool kFifth>
struct Nibbles32 {
  static constexpr int kFifthAt = kMin ? 4 : 2, kNibblesAt = kFifthAt + (kFifth ? 4 : 0);
  static constexpr int kValues = 32, kBytes = kNibblesAt + 16, kUnits = 1,
                       kOffset = kMin     ? 0
                                 : kFifth ? 16
                                          : 8;
  static constexpr bool kMins = kMin;
  static __device__ Unit load(Global<const uint8_t> block, int /*unit*/) {
    Unit u{
        {}, {0, 16}, {1, 1}, {kMin ? -1 : 0, kMin ? -1 : 0}, half_at(block), kMin ? half_at(block + 2) : 0};
    uint32_t words[4];
    load_words<4>(block + kNibblesAt, words);
    split_nibbles(words, u.codes);
    if constexpr (kFifth) {
      uint32_t top;
      load_words<1>(block + kFifthAt, &top);
      AR_UNROLL
      for (int i = 0; i < 8; ++i) {
        u.codes[i] |= spread_bits(top >> (4 * i)) << 4;
      }
    }
    return u;
  }
};
using Q4_0 = Nibbles32<false, false>;
using Q4_1 = Nibbles32<true, false>;
using Q5_0 = Nibbles32<false, true>;
using Q5_1 = Nibbles32<true, true>;

struct IQ4NL {
  static constexpr int kValues = 32, kBytes = 18, kUnits = 1, kOffset = 0;
  static constexpr bool kMins = false;
  static __device__ Unit load(Global<const uint8_t> block, int /*unit*/) {
    Unit u{{}, {0, 16}, {1, 1}, {}, half_at(block), 0};
    uint32_t words[4];
    load_words<4>(block + 2, words);
    constexpr Table16 kTable = words_of(iq4_nl::kValues);
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      look_up16(words[i], kTable, &u.codes[i], &u.codes[4 + i]);
    }
    return u;
  }
};

// Half `unit % 2` of parts p and p + 1, p = 2 * (unit / 2): two of the four that share their bytes.
struct Q2K {
  static constexpr int kValues = 256, kBytes = 84, kUnits = 8, kOffset = 0;
  static constexpr bool kMins = true;
  static __device__ Unit load(Global<const uint8_t> block, int unit) {
    const int part = unit / 2 * 2, half = unit % 2;
    Unit u{{},
           {32 * part + 16 * half, 32 * (part + 1) + 16 * half},
           {},
           {},
           half_at(block + 80),
           half_at(block + 82)};
    uint32_t words[4];
    load_words<4>(block + 16 + part / 4 * 32 + 16 * half, words);
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      u.codes[i] = words[i] >> (2 * (part % 4)) & 0x03030303U;
      u.codes[4 + i] = words[i] >> (2 * (part % 4) + 2) & 0x03030303U;
    }
    AR_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int both = byte_at(block + 2 * (part + j) + half);
      u.scale[j] = both & 15;
      u.min[j] = both >> 4;
    }
    return u;
  }
};

// Q4_K, and Q5_K with its fifth bits: half `unit % 2` of parts 2k and 2k + 1, k = unit / 2.
template <bool kFifth>
struct Q45K {
  static constexpr int kValues = 256, kBytes = kFifth ? 176 : 144, kUnits = 8, kOffset = 0;
  static constexpr bool kMins = true;
  static __device__ Unit load(Global<const uint8_t> block, int unit) {
    const int k = unit / 2, half = unit % 2;
    Unit u{{}, {64 * k + 16 * half, 64 * k + 32 + 16 * half}, {}, {}, half_at(block), half_at(block + 2)};
    const uint4 q = load16(block + (kFifth ? 48 : 16) + 32 * k + 16 * half);
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
    split_nibbles(words, u.codes);
    if constexpr (kFifth) {
      const uint4 top = load16(block + 16 + 16 * half);
      const uint32_t bits[4] = {top.x, top.y, top.z, top.w};
      AR_UNROLL
      for (int i = 0; i < 4; ++i) {
        u.codes[i] |= (bits[i] >> (2 * k) & 0x01010101U) << 4;
        u.codes[4 + i] |= (bits[i] >> (2 * k + 1) & 0x01010101U) << 4;
      }
    }
    AR_UNROLL
    for (int j = 0; j < 2; ++j) {
      scale_and_min(block + 4, 2 * k + j, &u.scale[j], &u.min[j]);
    }
    return u;
  }

 private:
  static __device__ uint4 load16(Global<const uint8_t> p) { return ::load<uint4>(p); }
  static __device__ void scale_and_min(Global<const uint8_t> p, int part, int* scale, int* min) {
    const int low = byte_at(p + part % 4), mid = byte_at(p + part % 4 + 4);
    if (part < 4) {
      *scale = low & 63;
      *min = mid & 63;
      return;
    }
    const int high = byte_at(p + part + 4);
    *scale = (high & 15) | low >> 6 << 4;
    *min = high >> 4 | mid >> 6 << 4;
  }
};
using Q4K = Q45K<false>;
using Q5K = Q45K<true>;

// Half `unit % 2` of parts p and p + 2, p = 4 * (unit / 4) + unit / 2 % 2: what shares its bytes of lower bits.
struct Q6K {
  static constexpr int kValues = 256, kBytes = 210, kUnits = 8, kOffset = 32;
  static constexpr bool kMins = false;
  static __device__ Unit load(Global<const uint8_t> block, int unit) {
    const int g = unit / 4, w = unit / 2 % 2, half = unit % 2, part = 4 * g + w;
    Unit u{{}, {32 * part + 16 * half, 32 * (part + 2) + 16 * half}, {}, {}, half_at(block + 208), 0};
    uint32_t low[4], top[4];
    load_words<4>(block + 64 * g + 32 * w + 16 * half, low);
    load_words<4>(block + 128 + 32 * g + 16 * half, top);
    split_nibbles(low, u.codes);
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      u.codes[i] |= (top[i] >> (2 * w) & 0x03030303U) << 4;
      u.codes[4 + i] |= (top[i] >> (2 * w + 4) & 0x03030303U) << 4;
    }
    AR_UNROLL
    for (int j = 0; j < 2; ++j) {
      u.scale[j] = static_cast<int8_t>(byte_at(block + 192 + 2 * (part + 2 * j) + half));
    }
    return u;
  }
};

// Cut as Q2_K.
struct Q3K {
  static constexpr int kValues = 256, kBytes = 110, kUnits = 8, kOffset = 4;
  static constexpr bool kMins = false;
  static __device__ Unit load(Global<const uint8_t> block, int unit) {
    const int part = unit / 2 * 2, half = unit % 2;
    Unit u{{}, {32 * part + 16 * half, 32 * (part + 1) + 16 * half}, {}, {}, half_at(block + 108), 0};
    uint32_t low[4], top[4];
    load_words<4>(block + 32 + part / 4 * 32 + 16 * half, low);
    load_words<4>(block + 16 * half, top);
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t two = low[i] >> (2 * (part % 4)), third = top[i] >> part;
      u.codes[i] = (two & 0x03030303U) | (third & 0x01010101U) << 2;
      u.codes[4 + i] = (two >> 2 & 0x03030303U) | (third >> 1 & 0x01010101U) << 2;
    }
    AR_UNROLL
    for (int j = 0; j < 2; ++j) {
      u.scale[j] = scale_at(block + 96, 2 * (part + j) + half);
    }
    return u;
  }

 private:
  static __device__ int scale_at(Global<const uint8_t> s, int k) {
    const int low = byte_at(s + k % 8) >> (k / 8 * 4) & 15;
    return (low | (byte_at(s + 8 + k % 4) >> (2 * (k / 4)) & 3) << 4) - 32;
  }
};

// A unit is a part.
struct IQ4XS {
  static constexpr int kValues = 256, kBytes = 136, kUnits = 8, kOffset = 0;
  static constexpr bool kMins = false;
  static __device__ Unit load(Global<const uint8_t> block, int part) {
    Unit u{{}, {32 * part, 32 * part + 16}, {}, {}, half_at(block), 0};
    uint32_t words[4];
    load_words<4>(block + 8 + 16 * part, words);
    constexpr Table16 kTable = words_of(iq4_nl::kValues);
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      look_up16(words[i], kTable, &u.codes[i], &u.codes[4 + i]);
    }
    const int low = byte_at(block + 4 + part / 2) >> (part % 2 * 4) & 15;
    const int s = (low | (load_high(block + 2) >> (2 * part) & 3) << 4) - 32;
    u.scale[0] = u.scale[1] = s;
    return u;
  }

 private:
  static __device__ int load_high(Global<const uint8_t> p) { return ::load<uint16_t>(p); }
};

}  // namespace kernels::cuda
