#pragma once
// The codes of each format in registers of AVX2: what rows (avx2.cc) and tiles (avx2_tiles.cc) share.

#include "kernels/isa/dot_isa.h"
#include "kernels/isa/x86.h"

#if defined(__x86_64__)

#include "kernels/formats/iq4_nl.h"

namespace kernels::avx2 {

using namespace x86;  // NOLINT(google-build-using-namespace)

// ---- Pieces ----

DOTS_AVX2_INLINE __m256i nibbles(__m256i v) {
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
// The nibbles of 16 bytes: low ones first.
DOTS_AVX2_INLINE __m256i both_nibbles(const uint8_t* p) {
  const __m128i q = load128(p);
  return nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1));
}
DOTS_AVX2_INLINE __m256i uneven_codes(__m256i nibble) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load128(iq4_nl::kValues)), nibble);
}
// `value` in the bytes whose bits have one of those in `which`.
DOTS_AVX2_INLINE __m256i where(__m256i bits, __m256i which, int8_t value) {
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bits, which), which), _mm256_set1_epi8(value));
}

// 16 sums of two products each. Codes of at most seven bits without a sign, else kSigned: their signs move to the
// activations, since 16 bits cannot hold 255 * 127 twice.
template <bool kSigned>
DOTS_AVX2_INLINE __m256i pair_sums(__m256i codes, __m256i a) {
  if constexpr (kSigned) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(a, codes));
  } else {
    return _mm256_maddubs_epi16(codes, a);
  }
}

// ---- Blocks of 256 values ----
//
// A format's struct has its Head (x86.h) and
//   kBits          of a code
//   kSigned        codes are as they are; else
//   kOffset        they are higher by 1 << kOffset, -1: as they are
//   part<k>(p)     the codes of part k

struct Q4K : Q4KHead {
  static constexpr int kBits = 4;
  static constexpr int kOffset = -1;
  static constexpr bool kSigned = false;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    const __m256i q = load256(p + 16 + k / 2 * 32);
    return nibbles(k % 2 == 0 ? q : _mm256_srli_epi16(q, 4));
  }
};

struct Q5K : Q5KHead {
  static constexpr int kBits = 5;
  static constexpr int kOffset = -1;
  static constexpr bool kSigned = false;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    const __m256i q = load256(p + 48 + k / 2 * 32);
    return _mm256_or_si256(nibbles(k % 2 == 0 ? q : _mm256_srli_epi16(q, 4)),
                           where(load256(p + 16), _mm256_set1_epi8(static_cast<char>(1 << k)), 16));
  }
};

struct Q6K : Q6KHead {
  static constexpr int kBits = 6;
  static constexpr int kOffset = 5;
  static constexpr bool kSigned = false;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    const __m256i q = load256(p + k / 4 * 64 + k % 2 * 32), top = load256(p + 128 + k / 4 * 32);
    constexpr int kShift = k % 4 * 2;  // where the two bits are; they belong at 4
    __m256i upper;
    if constexpr (kShift <= 4) {
      upper = _mm256_slli_epi16(top, 4 - kShift);
    } else {
      upper = _mm256_srli_epi16(top, kShift - 4);
    }
    return _mm256_or_si256(nibbles(k % 4 < 2 ? q : _mm256_srli_epi16(q, 4)),
                           _mm256_and_si256(upper, _mm256_set1_epi8(48)));
  }
};

template <int k>
DOTS_AVX2_INLINE __m256i two_bits(const uint8_t* p) {
  return _mm256_and_si256(_mm256_srli_epi16(load256(p + k / 4 * 32), k % 4 * 2), _mm256_set1_epi8(3));
}

struct Q3K : Q3KHead {
  static constexpr int kBits = 3;
  static constexpr int kOffset = 2;
  static constexpr bool kSigned = false;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    return _mm256_or_si256(two_bits<k>(p + 32),
                           where(load256(p), _mm256_set1_epi8(static_cast<char>(1 << k)), 4));
  }
};

struct Q2K : Q2KHead {
  static constexpr int kBits = 2;
  static constexpr int kOffset = -1;
  static constexpr bool kSigned = false;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    return two_bits<k>(p + 16);
  }
};

struct Iq4Xs : Iq4XsHead {
  static constexpr int kBits = 8;
  static constexpr int kOffset = -1;
  static constexpr bool kSigned = true;
  template <int k>
  static DOTS_AVX2_INLINE __m256i part(const uint8_t* p) {
    return uneven_codes(both_nibbles(p + 8 + 16 * k));
  }
  static DOTS_AVX2_INLINE __m256i scales(const uint8_t* p) {
    const __m256i s = Iq4XsHead::scales(p);
    return _mm256_or_si256(_mm256_slli_epi32(s, 16), _mm256_and_si256(s, _mm256_set1_epi32(0xffff)));
  }
};

// ---- Blocks of 32 values ----
//
// A format's struct has kBits, kBytes (with the fp16 d first), kSigned and kOffset as above, kMins (an fp16 m follows that is
// added) and
//   codes(p)       32 codes

struct Q80 {
  static constexpr int kBits = 8;
  static constexpr int kBytes = 34, kOffset = -1;
  static constexpr bool kMins = false, kSigned = true;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) { return load256(p + 2); }
};
struct Q40 {
  static constexpr int kBits = 4;
  static constexpr int kBytes = 18, kOffset = 3;
  static constexpr bool kMins = false, kSigned = false;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) { return both_nibbles(p + 2); }
};
struct Q41 {
  static constexpr int kBits = 4;
  static constexpr int kBytes = 20, kOffset = -1;
  static constexpr bool kMins = true, kSigned = false;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) { return both_nibbles(p + 4); }
};

// `value` in byte i where bit i of the four bytes at p is set.
DOTS_AVX2_INLINE __m256i spread_bits(const uint8_t* p, int8_t value) {
  const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2,
                                           2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  return where(_mm256_shuffle_epi8(_mm256_set1_epi32(dword(p)), byte_of),
               _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201U)), value);
}
struct Q50 {
  static constexpr int kBits = 5;
  static constexpr int kBytes = 22, kOffset = 4;
  static constexpr bool kMins = false, kSigned = false;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) {
    return _mm256_or_si256(both_nibbles(p + 6), spread_bits(p + 2, 16));
  }
};
struct Q51 {
  static constexpr int kBits = 5;
  static constexpr int kBytes = 24, kOffset = -1;
  static constexpr bool kMins = true, kSigned = false;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) {
    return _mm256_or_si256(both_nibbles(p + 8), spread_bits(p + 4, 16));
  }
};
struct Iq4Nl {
  static constexpr int kBits = 8;
  static constexpr int kBytes = 18, kOffset = -1;
  static constexpr bool kMins = false, kSigned = true;
  static DOTS_AVX2_INLINE __m256i codes(const uint8_t* p) { return uneven_codes(both_nibbles(p + 2)); }
};

// ---- Tiles (avx2_tiles.cc), for the structs of each kind ----

template <class F>
DOTS_AVX2 void tile_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                        int n_tokens, int64_t n, float* out, int64_t out_stride);
template <class F>
DOTS_AVX2 void tile_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                       int n_tokens, int64_t n, float* out, int64_t out_stride);

// ---- Scores (avx2_scores.cc) ----

DOTS_AVX2 void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride);

}  // namespace kernels::avx2

#endif  // __x86_64__
