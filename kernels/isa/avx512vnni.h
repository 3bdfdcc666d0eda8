#pragma once
// The codes of each format in registers of AVX-512: what rows (avx512vnni.cc) and tiles (avx512vnni_tiles.cc) share.

#include "kernels/isa/dot_isa.h"
#include "kernels/isa/x86.h"

#if defined(__x86_64__)

#include <cstring>

#include "kernels/formats/iq4_nl.h"

#define DOTS_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define DOTS_VBMI \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")))
#define DOTS_VNNI_INLINE DOTS_VNNI inline __attribute__((always_inline))

namespace kernels::avx512 {

using namespace x86;  // NOLINT(google-build-using-namespace)

// ---- Loads ----

DOTS_VNNI_INLINE __m512i load512(const void* p) {
  return _mm512_loadu_si512(p);
}
DOTS_VNNI_INLINE __m512i twice(__m256i v) {
  return _mm512_broadcast_i64x4(v);
}
DOTS_VNNI_INLINE __m512i two(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
// 16 bytes each from four places.
DOTS_VNNI_INLINE __m512i four(const uint8_t* p, size_t step) {
  __m512i v = _mm512_castsi128_si512(load128(p));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load128(p + step));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load128(p + 2 * step));
  return _mm512_mask_broadcast_i32x4(v, 0xf000, load128(p + 3 * step));
}
DOTS_VNNI_INLINE __m512i low_nibbles(__m512i v) {
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
DOTS_VNNI_INLINE __m512i high_nibbles(__m512i v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

// ---- Sums ----

// Lane k of the result: in element r the sum of lane k of s_r, for 128-bit lanes of four integers.
DOTS_VNNI_INLINE __m512i transposed_sums(__m512i s0, __m512i s1, __m512i s2, __m512i s3) {
  const __m512i s01 = _mm512_add_epi32(_mm512_unpacklo_epi32(s0, s1), _mm512_unpackhi_epi32(s0, s1));
  const __m512i s23 = _mm512_add_epi32(_mm512_unpacklo_epi32(s2, s3), _mm512_unpackhi_epi32(s2, s3));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(s01, s23), _mm512_unpackhi_epi64(s01, s23));
}

// ---- Blocks of 256 values ----
//
// A format's struct has
//   its Head (x86.h)   where kWide, scales() are of the 8 parts as int32
//   kOffset            codes are stored higher by 1 << kOffset than they are; -1: as they are
//   kWide              codes of more than six bits: 16-bit sums would overflow
//   kHalves            which half of a part each 16 bytes of codes() hold
//   codes(p)           256 codes of 0..255 in four registers
//   arranged(q)        activations in the order of kHalves

struct Codes {
  __m512i c0, c1, c2, c3;
};

struct Halves {
  int at[16];
};

DOTS_VNNI_INLINE Codes in_order(const int8_t* q) {
  return {load512(q), load512(q + 64), load512(q + 128), load512(q + 192)};
}
inline constexpr Halves kInOrder{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
// Registers of parts 0 2, 1 3, 4 6, 5 7.
DOTS_VNNI_INLINE Codes every_other(const int8_t* q) {
  const Codes a = in_order(q);
  return {_mm512_shuffle_i64x2(a.c0, a.c1, 0x44), _mm512_shuffle_i64x2(a.c0, a.c1, 0xee),
          _mm512_shuffle_i64x2(a.c2, a.c3, 0x44), _mm512_shuffle_i64x2(a.c2, a.c3, 0xee)};
}
inline constexpr Halves kEveryOther{{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}};
// Parts 0 4, 1 5, 2 6, 3 7.
DOTS_VNNI_INLINE Codes four_apart(const int8_t* q) {
  const Codes a = in_order(q);
  return {_mm512_shuffle_i64x2(a.c0, a.c2, 0x44), _mm512_shuffle_i64x2(a.c0, a.c2, 0xee),
          _mm512_shuffle_i64x2(a.c1, a.c3, 0x44), _mm512_shuffle_i64x2(a.c1, a.c3, 0xee)};
}
inline constexpr Halves kFourApart{{0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}};
// First halves of parts 0-3, their second halves, those of parts 4-7.
DOTS_VNNI_INLINE Codes by_halves(const int8_t* q) {
  const Codes a = in_order(q);
  return {_mm512_shuffle_i32x4(a.c0, a.c1, 0x88), _mm512_shuffle_i32x4(a.c0, a.c1, 0xdd),
          _mm512_shuffle_i32x4(a.c2, a.c3, 0x88), _mm512_shuffle_i32x4(a.c2, a.c3, 0xdd)};
}
inline constexpr Halves kByHalves{{0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15}};

struct Q4K : Q4KHead {
  static constexpr int kOffset = -1;
  static constexpr bool kWide = false;
  static constexpr Halves kHalves = kEveryOther;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return every_other(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) {
    const __m512i a = load512(p + 16), b = load512(p + 80);
    return {low_nibbles(a), high_nibbles(a), low_nibbles(b), high_nibbles(b)};
  }
};

// `value` added where a byte of bits has one of those in `which`.
DOTS_VNNI_INLINE __m512i add_where(__m512i codes, __m512i bits, __m512i which, int8_t value) {
  return _mm512_mask_add_epi8(codes, _mm512_test_epi8_mask(bits, which), codes, _mm512_set1_epi8(value));
}
DOTS_VNNI_INLINE __m512i bit_pair(int low, int high) {
  return two(_mm256_set1_epi8(static_cast<char>(1 << low)), _mm256_set1_epi8(static_cast<char>(1 << high)));
}

struct Q5K : Q5KHead {
  static constexpr int kOffset = -1;
  static constexpr bool kWide = false;
  static constexpr Halves kHalves = kEveryOther;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return every_other(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) {
    const __m512i top = twice(load256(p + 16)), a = load512(p + 48), b = load512(p + 112);
    return {add_where(low_nibbles(a), top, bit_pair(0, 2), 16),
            add_where(high_nibbles(a), top, bit_pair(1, 3), 16),
            add_where(low_nibbles(b), top, bit_pair(4, 6), 16),
            add_where(high_nibbles(b), top, bit_pair(5, 7), 16)};
  }
};

struct Q6K : Q6KHead {
  static constexpr int kOffset = 5;
  static constexpr bool kWide = false;
  static constexpr Halves kHalves = kInOrder;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return in_order(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) {
    const __m512i a = load512(p), b = load512(p + 64);
    const __m512i top_a = twice(load256(p + 128)), top_b = twice(load256(p + 160));
    return {joined(a, raised(top_a)), joined(_mm512_srli_epi16(a, 4), lowered(top_a)),
            joined(b, raised(top_b)), joined(_mm512_srli_epi16(b, 4), lowered(top_b))};
  }
  // The lower four bits of each byte of `low`, then bits 4 and 5 of `top`.
  static DOTS_VNNI_INLINE __m512i joined(__m512i low, __m512i top) {
    constexpr int kSelect = 0xca;  // first ? second : third
    return _mm512_and_si512(_mm512_ternarylogic_epi32(_mm512_set1_epi8(15), low, top, kSelect),
                            _mm512_set1_epi8(63));
  }
  // Bits 0 and 1 (2 and 3 in the upper half) to bits 4 and 5; then bits 4 and 5 (6 and 7).
  static DOTS_VNNI_INLINE __m512i raised(__m512i top) {
    return _mm512_sllv_epi16(top, two(_mm256_set1_epi16(4), _mm256_set1_epi16(2)));
  }
  static DOTS_VNNI_INLINE __m512i lowered(__m512i top) {
    return _mm512_srlv_epi16(top, two(_mm256_setzero_si256(), _mm256_set1_epi16(2)));
  }
};

// 256 codes of two bits: parts 0-3 in the first 32 bytes, parts 4-7 in the others.
DOTS_VNNI_INLINE Codes two_bits(const uint8_t* p) {
  const __m512i q = load512(p), three = _mm512_set1_epi8(3);
  return {_mm512_and_si512(q, three), _mm512_and_si512(_mm512_srli_epi16(q, 2), three),
          _mm512_and_si512(_mm512_srli_epi16(q, 4), three), _mm512_and_si512(_mm512_srli_epi16(q, 6), three)};
}

struct Q3K : Q3KHead {
  static constexpr int kOffset = 2;
  static constexpr bool kWide = false;
  static constexpr Halves kHalves = kFourApart;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return four_apart(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) {
    const Codes low = two_bits(p + 32);
    const __m512i top = twice(load256(p));
    return {add_where(low.c0, top, bit_pair(0, 4), 4), add_where(low.c1, top, bit_pair(1, 5), 4),
            add_where(low.c2, top, bit_pair(2, 6), 4), add_where(low.c3, top, bit_pair(3, 7), 4)};
  }
};

struct Q2K : Q2KHead {
  static constexpr int kOffset = -1;
  static constexpr bool kWide = false;
  static constexpr Halves kHalves = kFourApart;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return four_apart(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) { return two_bits(p + 16); }
};

// kValues of nibbles, raised by 128.
DOTS_VNNI_INLINE __m512i uneven_codes(__m512i nibbles) {
  const __m128i values = _mm_add_epi8(load128(iq4_nl::kValues), _mm_set1_epi8(-128));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), nibbles);
}

struct Iq4Xs : Iq4XsHead {
  static constexpr int kOffset = 7;
  static constexpr bool kWide = true;
  static constexpr Halves kHalves = kByHalves;
  static DOTS_VNNI_INLINE Codes arranged(const int8_t* q) { return by_halves(q); }
  static DOTS_VNNI_INLINE Codes codes(const uint8_t* p) {
    const __m512i a = load512(p + 8), b = load512(p + 72);
    return {uneven_codes(low_nibbles(a)), uneven_codes(high_nibbles(a)), uneven_codes(low_nibbles(b)),
            uneven_codes(high_nibbles(b))};
  }
};

// ---- Blocks of 32 values, four at a time ----
//
// A format's struct has kBytes (with the fp16 d first), kOffset as above, kMins (an fp16 m follows that is added) and
//   codes(p)           128 codes of 0..255: the first halves of the blocks, then the second

struct HalfCodes {
  __m512i first, second;
};

struct Q80 {
  static constexpr int kBytes = 34, kOffset = 7;
  static constexpr bool kMins = false;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) {
    const __m512i top = _mm512_set1_epi8(-128);
    return {_mm512_xor_si512(four(p + 2, kBytes), top), _mm512_xor_si512(four(p + 18, kBytes), top)};
  }
};

struct Q40 {
  static constexpr int kBytes = 18, kOffset = 3;
  static constexpr bool kMins = false;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) {
    const __m512i q = four(p + 2, kBytes);
    return {low_nibbles(q), high_nibbles(q)};
  }
};

struct Q41 {
  static constexpr int kBytes = 20, kOffset = -1;
  static constexpr bool kMins = true;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) {
    const __m512i q = four(p + 4, kBytes);
    return {low_nibbles(q), high_nibbles(q)};
  }
};

// 16 bits each from four places.
inline uint64_t four_words(const uint8_t* p, size_t step) {
  return word(p) | uint64_t{word(p + step)} << 16 | uint64_t{word(p + 2 * step)} << 32 |
         uint64_t{word(p + 3 * step)} << 48;
}
template <int kBytes, int kTop>
DOTS_VNNI_INLINE HalfCodes five_bits(const uint8_t* p) {
  const __m512i q = four(p + kTop + 4, kBytes), top = _mm512_set1_epi8(16);
  const __m512i low = low_nibbles(q), high = high_nibbles(q);
  return {_mm512_mask_add_epi8(low, four_words(p + kTop, kBytes), low, top),
          _mm512_mask_add_epi8(high, four_words(p + kTop + 2, kBytes), high, top)};
}
struct Q50 {
  static constexpr int kBytes = 22, kOffset = 4;
  static constexpr bool kMins = false;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) { return five_bits<kBytes, 2>(p); }
};
struct Q51 {
  static constexpr int kBytes = 24, kOffset = -1;
  static constexpr bool kMins = true;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) { return five_bits<kBytes, 4>(p); }
};

struct Iq4Nl {
  static constexpr int kBytes = 18, kOffset = 7;
  static constexpr bool kMins = false;
  static DOTS_VNNI_INLINE HalfCodes codes(const uint8_t* p) {
    const __m512i q = four(p + 2, kBytes);
    return {uneven_codes(low_nibbles(q)), uneven_codes(high_nibbles(q))};
  }
};

// ---- Tiles (avx512vnni_tiles.cc), for the structs of each kind ----

template <class F>
DOTS_VNNI void tile_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                        int n_tokens, int64_t n, float* out, int64_t out_stride);
template <class F>
DOTS_VNNI void tile_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                       int n_tokens, int64_t n, float* out, int64_t out_stride);

// ---- Scores (avx512vnni_scores.cc) ----

DOTS_VNNI void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride);

}  // namespace kernels::avx512

#endif  // __x86_64__
