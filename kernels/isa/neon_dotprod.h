#pragma once
// Pieces of the kernels with NEON's SDOT (Armv8.2): rows of weights (neon_dotprod.cc) and scores
// (neon_dotprod_scores.cc).

#include "kernels/isa/dot_isa.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include <cstring>

#include "kernels/formats/iq4_nl.h"

#if defined(__clang__)
#define DOTS_NEON __attribute__((target("dotprod")))
#else
#define DOTS_NEON __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define DOTS_NEON_INLINE DOTS_NEON inline __attribute__((always_inline))

namespace kernels::neon {

// ---- Pieces ----

inline uint32_t dword(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// 32 codes or activations.
struct Bytes {
  int8x16_t low, high;
};

DOTS_NEON_INLINE int32x4_t add_dots(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if defined(__clang__) && !defined(__ARM_FEATURE_DOTPROD)
  // clang 14 declares vdotq_s32 only where the whole file has it.
  asm(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
  return acc;
#else
  return vdotq_s32(acc, a, b);
#endif
}

DOTS_NEON_INLINE int8x16_t low_nibbles(uint8x16_t v) {
  return vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
}
DOTS_NEON_INLINE int8x16_t high_nibbles(uint8x16_t v) {
  return vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
}
DOTS_NEON_INLINE Bytes nibbles(uint8x16_t v) {
  return {low_nibbles(v), high_nibbles(v)};
}
DOTS_NEON_INLINE Bytes minus(Bytes v, int8_t zero) {
  return {vsubq_s8(v.low, vdupq_n_s8(zero)), vsubq_s8(v.high, vdupq_n_s8(zero))};
}
DOTS_NEON_INLINE Bytes plus(Bytes v, uint8x16_t low, uint8x16_t high) {
  return {vorrq_s8(v.low, vreinterpretq_s8_u8(low)), vorrq_s8(v.high, vreinterpretq_s8_u8(high))};
}
DOTS_NEON_INLINE Bytes uneven_codes(Bytes index) {
  const int8x16_t values = vld1q_s8(iq4_nl::kValues);
  return {vqtbl1q_s8(values, vreinterpretq_u8_s8(index.low)),
          vqtbl1q_s8(values, vreinterpretq_u8_s8(index.high))};
}
// `value` where a byte of bits has the one in `which`.
DOTS_NEON_INLINE uint8x16_t where(uint8x16_t bits, uint8x16_t which, uint8_t value) {
  return vandq_u8(vtstq_u8(bits, which), vdupq_n_u8(value));
}
DOTS_NEON_INLINE uint8x16_t shifted(uint8x16_t v, int right) {
  return vshlq_u8(v, vdupq_n_s8(static_cast<int8_t>(-right)));
}

// The sums of four rows' lanes.
DOTS_NEON_INLINE int32x4_t row_sums(int32x4_t s0, int32x4_t s1, int32x4_t s2, int32x4_t s3) {
  return vpaddq_s32(vpaddq_s32(s0, s1), vpaddq_s32(s2, s3));
}
DOTS_NEON_INLINE float32x4_t factors(const uint8_t* p0, const uint8_t* p1, const uint8_t* p2,
                                     const uint8_t* p3) {
  const uint64_t words =
      word(p0) | uint64_t{word(p1)} << 16 | uint64_t{word(p2)} << 32 | uint64_t{word(p3)} << 48;
  return vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(words)));
}

DOTS_NEON_INLINE void store_rows(float32x4_t sums, int n, float* out) {
  float some[4];
  vst1q_f32(some, sums);
  std::memcpy(out, some, sizeof(float) * static_cast<size_t>(n < 4 ? n : 4));
}

DOTS_NEON void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride);

}  // namespace kernels::neon

#endif  // __aarch64__
