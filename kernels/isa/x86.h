#pragma once
// What the instruction sets of x86 share: the intrinsics, loads, rows by four, and what stands beside the codes in
// blocks of 256 values. All of it needs AVX2, FMA and F16C.

#if defined(__x86_64__)

// GCC 12's own headers leave operands undefined that no instruction reads, and then warn of them (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/isa/dot_isa.h"

#if defined(__clang__)
#define DOTS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DOTS_UNROLL _Pragma("GCC unroll 16")
#endif

#define DOTS_AVX2 __attribute__((target("avx2,fma,f16c")))
#define DOTS_AVX2_INLINE DOTS_AVX2 inline __attribute__((always_inline))

namespace kernels::x86 {

// ---- Loads ----

inline int dword(const uint8_t* p) {
  int value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
DOTS_AVX2_INLINE __m256i load256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
DOTS_AVX2_INLINE __m128i load128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

// The sums of four rows' lanes.
DOTS_AVX2_INLINE __m128i row_sums(__m256i s0, __m256i s1, __m256i s2, __m256i s3) {
  const __m256i s01 = _mm256_add_epi32(_mm256_unpacklo_epi32(s0, s1), _mm256_unpackhi_epi32(s0, s1));
  const __m256i s23 = _mm256_add_epi32(_mm256_unpacklo_epi32(s2, s3), _mm256_unpackhi_epi32(s2, s3));
  const __m256i t = _mm256_add_epi32(_mm256_unpacklo_epi64(s01, s23), _mm256_unpackhi_epi64(s01, s23));
  return _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
}

DOTS_AVX2_INLINE void store_rows(__m128 sums, int n, float* out) {
  if (n >= 4) {
    _mm_storeu_ps(out, sums);
  } else {
    alignas(16) float some[4];
    _mm_store_ps(some, sums);
    std::memcpy(out, some, sizeof(float) * static_cast<size_t>(n));
  }
}

// The processor's own prefetch ends with the page, and a row is about a page: the lines of a block that comes two tiles
// of four rows later, into the L2 cache. (Into L1, which has fewer misses under way, decode was half as fast; fetching
// the four rows as one range, each line once, was slower too.) Always inlined: GCC drops calls of a function that only
// prefetches.
inline constexpr size_t kRowsAhead = 8;
template <int kBytes>
DOTS_AVX2_INLINE void prefetch_block(const uint8_t* p) {
  constexpr int kIntoL2 = 2;
  __builtin_prefetch(p, 0, kIntoL2);
  if constexpr (kBytes > 64) __builtin_prefetch(p + 64, 0, kIntoL2);
  if constexpr (kBytes > 128) __builtin_prefetch(p + 128, 0, kIntoL2);
  if constexpr (kBytes > 192) __builtin_prefetch(p + 192, 0, kIntoL2);
}
template <int kBytes>
DOTS_AVX2_INLINE void prefetch(const uint8_t* p, size_t row_bytes) {
  p += kRowsAhead * row_bytes;
  // Else GCC keeps the addresses of all lines at hand, a dozen, and spills them; for the largest blocks that is faster
  // none the less.
  if constexpr (kBytes <= 192) asm("" : "+r"(p));
  prefetch_block<kBytes>(p);
  prefetch_block<kBytes>(p + row_bytes);
  prefetch_block<kBytes>(p + 2 * row_bytes);
  prefetch_block<kBytes>(p + 3 * row_bytes);
}

// ---- Blocks of 256 values, but for their codes ----
//
// A Head, the part of a format of 256 values that its codes are not:
//   kBytes, kFactor    of a block, and where its fp16 d is (with kMins: d and dmin)
//   scales(p)          multipliers of the 16 halves of parts as int16
//   mins(p)            minimums likewise; kMins only

// The 12 bytes of Q4_K and Q5_K at p + 4: eight multipliers, then eight minimums, a byte each.
DOTS_AVX2_INLINE __m128i scales_and_mins(const uint8_t* p) {
  const __m128i v = load128(p);
  const __m128i low =
      _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi32(v, 0b11'10'11'01), _mm_setr_epi32(0, 0, 0, 4)),
                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(v, 0b10'10'01'01), 2),
                                     _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  return _mm_or_si128(low, high);
}
// The lower eight bytes, each twice.
DOTS_AVX2_INLINE __m256i doubled_low(__m128i bytes) {
  return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes));
}
// The upper eight.
DOTS_AVX2_INLINE __m256i doubled_high(__m128i bytes) {
  return _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(bytes, bytes));
}

struct Q4KHead {
  static constexpr int kBytes = 144, kFactor = 0;
  static constexpr bool kMins = true;
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) { return doubled_low(scales_and_mins(p)); }
  static DOTS_AVX2_INLINE __m256i mins(const uint8_t* p) { return doubled_high(scales_and_mins(p)); }
};
struct Q5KHead {
  static constexpr int kBytes = 176, kFactor = 0;
  static constexpr bool kMins = true;
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) { return doubled_low(scales_and_mins(p)); }
  static DOTS_AVX2_INLINE __m256i mins(const uint8_t* p) { return doubled_high(scales_and_mins(p)); }
};
struct Q6KHead {
  static constexpr int kBytes = 210, kFactor = 208;
  static constexpr bool kMins = false;
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) { return _mm256_cvtepi8_epi16(load128(p + 192)); }
};
struct Q3KHead {
  static constexpr int kBytes = 110, kFactor = 108;
  static constexpr bool kMins = false;
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 96));
    const __m128i low = _mm_and_si128(_mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi8(15));
    const __m128i top = _mm_and_si128(
        _mm_srlv_epi32(_mm_set1_epi32(dword(p + 104)), _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    return _mm256_cvtepi8_epi16(_mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(top, 4)), _mm_set1_epi8(32)));
  }
};
struct Q2KHead {
  static constexpr int kBytes = 84, kFactor = 80;
  static constexpr bool kMins = true;
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_and_si128(load128(p), _mm_set1_epi8(15)));
  }
  static DOTS_AVX2_INLINE __m256i mins(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(load128(p), 4), _mm_set1_epi8(15)));
  }
};
struct Iq4XsHead {
  static constexpr int kBytes = 136, kFactor = 0;
  static constexpr bool kMins = false;
  // Of the 8 parts, as int32.
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) {
    const __m256i low = _mm256_and_si256(
        _mm256_srlv_epi32(_mm256_set1_epi32(dword(p + 4)), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
        _mm256_set1_epi32(15));
    const __m256i upper = _mm256_and_si256(
        _mm256_srlv_epi32(_mm256_set1_epi32(word(p + 2) << 4), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)),
        _mm256_set1_epi32(48));
    return _mm256_sub_epi32(_mm256_or_si256(low, upper), _mm256_set1_epi32(32));
  }
};

// d and, with minimums, dmin of a block of four rows.
template <class F>
DOTS_AVX2_INLINE __m256 factors(const uint8_t* p0, const uint8_t* p1, const uint8_t* p2, const uint8_t* p3) {
  if constexpr (F::kMins) {
    const __m128i pairs = _mm_setr_epi32(dword(p0 + F::kFactor), dword(p1 + F::kFactor),
                                         dword(p2 + F::kFactor), dword(p3 + F::kFactor));
    const __m128i apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_cvtph_ps(_mm_shuffle_epi8(pairs, apart));
  } else {
    __m128i d = _mm_cvtsi32_si128(word(p0 + F::kFactor));
    d = _mm_insert_epi16(d, word(p1 + F::kFactor), 1);
    d = _mm_insert_epi16(d, word(p2 + F::kFactor), 2);
    return _mm256_castps128_ps256(_mm_cvtph_ps(_mm_insert_epi16(d, word(p3 + F::kFactor), 3)));
  }
}

}  // namespace kernels::x86

#endif  // __x86_64__
