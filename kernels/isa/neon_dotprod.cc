// Integer dots with NEON's SDOT (Armv8.2): four rows at a time, a part of 32 values after the other.

#include "kernels/isa/dot_isa.h"

#if defined(__aarch64__)

#include <sys/auxv.h>

#include <type_traits>

#include "kernels/isa/neon_dotprod.h"

namespace kernels {
namespace {

using namespace neon;  // NOLINT(google-build-using-namespace)

// ---- Blocks of 256 values ----
//
// A format's struct has
//   kBytes, kFactor    of a block, and where its fp16 d is (with kMins: dmin after it)
//   part(p, k)         the codes of part k
//   scales(p, s)       multipliers of the 16 halves of parts
//   mins(p, m)         minimums likewise; kMins only

// The 12 bytes of Q4_K and Q5_K: multipliers or minimums of the 8 parts, a byte each.
inline uint64_t packed_scales(const uint8_t* p) {
  const uint32_t a = dword(p), c = dword(p + 8);
  return (a & 0x3f3f3f3fU) | uint64_t{(c & 0x0f0f0f0fU) | (a >> 2 & 0x30303030U)} << 32;
}
inline uint64_t packed_mins(const uint8_t* p) {
  const uint32_t b = dword(p + 4), c = dword(p + 8);
  return (b & 0x3f3f3f3fU) | uint64_t{(c >> 4 & 0x0f0f0f0fU) | (b >> 2 & 0x30303030U)} << 32;
}
// 16 halves, from a byte for each part.
DOTS_NEON_INLINE int16x8x2_t doubled(uint64_t bytes) {
  const int16x8_t parts = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes)));
  return vzipq_s16(parts, parts);
}
DOTS_NEON_INLINE int16x8x2_t widened(int8x16_t bytes) {
  return {{vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))}};
}

struct Q4K {
  static constexpr int kBytes = 144, kFactor = 0;
  static constexpr bool kMins = true;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) {
    const uint8_t* q = p + 16 + k / 2 * 32;
    const uint8x16_t a = vld1q_u8(q), b = vld1q_u8(q + 16);
    return k % 2 == 0 ? Bytes{low_nibbles(a), low_nibbles(b)} : Bytes{high_nibbles(a), high_nibbles(b)};
  }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) { return doubled(packed_scales(p + 4)); }
  static DOTS_NEON_INLINE int16x8x2_t mins(const uint8_t* p) { return doubled(packed_mins(p + 4)); }
};

struct Q5K {
  static constexpr int kBytes = 176, kFactor = 0;
  static constexpr bool kMins = true;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) {
    const uint8x16_t bit = vdupq_n_u8(static_cast<uint8_t>(1 << k));
    return plus(Q4K::part(p + 32, k), where(vld1q_u8(p + 16), bit, 16), where(vld1q_u8(p + 32), bit, 16));
  }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) { return Q4K::scales(p); }
  static DOTS_NEON_INLINE int16x8x2_t mins(const uint8_t* p) { return Q4K::mins(p); }
};

struct Q6K {
  static constexpr int kBytes = 210, kFactor = 208;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) {
    const uint8_t *q = p + k / 4 * 64 + k % 2 * 32, *t = p + 128 + k / 4 * 32;
    const uint8x16_t a = vld1q_u8(q), b = vld1q_u8(q + 16), three = vdupq_n_u8(3);
    const Bytes low =
        k % 4 < 2 ? Bytes{low_nibbles(a), low_nibbles(b)} : Bytes{high_nibbles(a), high_nibbles(b)};
    const int shift = k % 4 * 2;
    return minus(plus(low, vshlq_n_u8(vandq_u8(shifted(vld1q_u8(t), shift), three), 4),
                      vshlq_n_u8(vandq_u8(shifted(vld1q_u8(t + 16), shift), three), 4)),
                 32);
  }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) {
    return widened(vreinterpretq_s8_u8(vld1q_u8(p + 192)));
  }
};

DOTS_NEON_INLINE Bytes two_bits(const uint8_t* p, int k) {
  const uint8_t* q = p + k / 4 * 32;
  const uint8x16_t three = vdupq_n_u8(3);
  return {vreinterpretq_s8_u8(vandq_u8(shifted(vld1q_u8(q), k % 4 * 2), three)),
          vreinterpretq_s8_u8(vandq_u8(shifted(vld1q_u8(q + 16), k % 4 * 2), three))};
}

struct Q3K {
  static constexpr int kBytes = 110, kFactor = 108;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) {
    const uint8x16_t bit = vdupq_n_u8(static_cast<uint8_t>(1 << k));
    return minus(plus(two_bits(p + 32, k), where(vld1q_u8(p), bit, 4), where(vld1q_u8(p + 16), bit, 4)), 4);
  }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) {
    const uint8x8_t bytes = vld1_u8(p + 96);
    const uint8x16_t low = vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    const int32_t shifts[4] = {0, -2, -4, -6};
    const uint8x16_t top = vandq_u8(
        vreinterpretq_u8_u32(vshlq_u32(vdupq_n_u32(dword(p + 104)), vld1q_s32(shifts))), vdupq_n_u8(3));
    const uint8x16_t all = vorrq_u8(low, vshlq_n_u8(top, 4));
    return widened(vsubq_s8(vreinterpretq_s8_u8(all), vdupq_n_s8(32)));
  }
};

struct Q2K {
  static constexpr int kBytes = 84, kFactor = 80;
  static constexpr bool kMins = true;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) { return two_bits(p + 16, k); }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) { return widened(low_nibbles(vld1q_u8(p))); }
  static DOTS_NEON_INLINE int16x8x2_t mins(const uint8_t* p) { return widened(high_nibbles(vld1q_u8(p))); }
};

struct Iq4Xs {
  static constexpr int kBytes = 136, kFactor = 0;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes part(const uint8_t* p, int k) {
    return uneven_codes(nibbles(vld1q_u8(p + 8 + 16 * k)));
  }
  static DOTS_NEON_INLINE int16x8x2_t scales(const uint8_t* p) {
    const int32_t low_shifts[8] = {0, -4, -8, -12, -16, -20, -24, -28};
    const int32_t top_shifts[8] = {0, -2, -4, -6, -8, -10, -12, -14};
    const uint32x4_t low = vdupq_n_u32(dword(p + 4)), top = vdupq_n_u32(uint32_t{word(p + 2)} << 4);
    int32x4_t s[2];
    for (int i = 0; i < 2; ++i) {
      const uint32x4_t four = vandq_u32(vshlq_u32(low, vld1q_s32(low_shifts + 4 * i)), vdupq_n_u32(15));
      const uint32x4_t two = vandq_u32(vshlq_u32(top, vld1q_s32(top_shifts + 4 * i)), vdupq_n_u32(48));
      s[i] = vsubq_s32(vreinterpretq_s32_u32(vorrq_u32(four, two)), vdupq_n_s32(32));
    }
    const int16x8_t parts = vcombine_s16(vmovn_s32(s[0]), vmovn_s32(s[1]));
    return vzipq_s16(parts, parts);
  }
};

DOTS_NEON_INLINE int32x4_t weighted_sums(int16x8x2_t weights, int16x8x2_t sums) {
  int32x4_t acc = vmull_s16(vget_low_s16(weights.val[0]), vget_low_s16(sums.val[0]));
  acc = vmlal_high_s16(acc, weights.val[0], sums.val[0]);
  acc = vmlal_s16(acc, vget_low_s16(weights.val[1]), vget_low_s16(sums.val[1]));
  return vmlal_high_s16(acc, weights.val[1], sums.val[1]);
}

// The sums of one block in four lanes that add up to them.
template <class F>
DOTS_NEON_INLINE int32x4_t block_sums(const uint8_t* p, const int8_t* q) {
  int16_t scales[16];
  const int16x8x2_t all = F::scales(p);
  vst1q_s16(scales, all.val[0]);
  vst1q_s16(scales + 8, all.val[1]);
  int32x4_t acc = vdupq_n_s32(0);
  for (int k = 0; k < 8; ++k, q += 32) {
    const Bytes codes = F::part(p, k);
    const int32x4_t first = add_dots(vdupq_n_s32(0), codes.low, vld1q_s8(q));
    const int32x4_t second = add_dots(vdupq_n_s32(0), codes.high, vld1q_s8(q + 16));
    acc = vmlaq_n_s32(acc, first, scales[2 * k]);
    acc = vmlaq_n_s32(acc, second, scales[2 * k + 1]);
  }
  return acc;
}

template <class F>
DOTS_NEON void rows_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                        float* out) {
  const int64_t n_blocks = n / kDotValues;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    float32x4_t dots = vdupq_n_f32(0), less = vdupq_n_f32(0);
    size_t at = 0;
    for (int64_t b = 0; b < n_blocks; ++b, at += F::kBytes) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      const int8_t* q = x[b].q;
      const float da = x[b].d[0];
      const int32x4_t sum =
          row_sums(block_sums<F>(p0, q), block_sums<F>(p1, q), block_sums<F>(p2, q), block_sums<F>(p3, q));
      constexpr int kFactor = F::kFactor;
      dots = vfmaq_f32(dots, vcvtq_f32_s32(sum),
                       vmulq_n_f32(factors(p0 + kFactor, p1 + kFactor, p2 + kFactor, p3 + kFactor), da));
      if constexpr (F::kMins) {
        const int16x8x2_t sums{{vld1q_s16(x[b].sums), vld1q_s16(x[b].sums + 8)}};
        const int32x4_t min = row_sums(weighted_sums(F::mins(p0), sums), weighted_sums(F::mins(p1), sums),
                                       weighted_sums(F::mins(p2), sums), weighted_sums(F::mins(p3), sums));
        constexpr int kMin = kFactor + 2;
        less = vfmaq_f32(less, vcvtq_f32_s32(min),
                         vmulq_n_f32(factors(p0 + kMin, p1 + kMin, p2 + kMin, p3 + kMin), da));
      }
    }
    store_rows(F::kMins ? vsubq_f32(dots, less) : dots, n_rows - r, out + r);
  }
}

// ---- Blocks of 32 values ----
//
// A format's struct has kBytes (with the fp16 d first), kMins (an fp16 m follows that is added) and
//   codes(p)           32 codes

struct Q80 {
  static constexpr int kBytes = 34;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) {
    return {vreinterpretq_s8_u8(vld1q_u8(p + 2)), vreinterpretq_s8_u8(vld1q_u8(p + 18))};
  }
};
struct Q40 {
  static constexpr int kBytes = 18;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) { return minus(nibbles(vld1q_u8(p + 2)), 8); }
};
struct Q41 {
  static constexpr int kBytes = 20;
  static constexpr bool kMins = true;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) { return nibbles(vld1q_u8(p + 4)); }
};
// 16 in byte i where bit i of the two bytes at p is set.
DOTS_NEON_INLINE uint8x16_t fifth_bits(const uint8_t* p) {
  const uint8x16_t bytes = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
  const uint8x8_t bit = vcreate_u8(0x8040201008040201U);
  return where(bytes, vcombine_u8(bit, bit), 16);
}
struct Q50 {
  static constexpr int kBytes = 22;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) {
    return minus(plus(nibbles(vld1q_u8(p + 6)), fifth_bits(p + 2), fifth_bits(p + 4)), 16);
  }
};
struct Q51 {
  static constexpr int kBytes = 24;
  static constexpr bool kMins = true;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) {
    return plus(nibbles(vld1q_u8(p + 8)), fifth_bits(p + 4), fifth_bits(p + 6));
  }
};
struct Iq4Nl {
  static constexpr int kBytes = 18;
  static constexpr bool kMins = false;
  static DOTS_NEON_INLINE Bytes codes(const uint8_t* p) { return uneven_codes(nibbles(vld1q_u8(p + 2))); }
};

template <class F>
DOTS_NEON_INLINE int32x4_t lane_sums(const uint8_t* p, Bytes a) {
  const Bytes codes = F::codes(p);
  return add_dots(add_dots(vdupq_n_s32(0), codes.low, a.low), codes.high, a.high);
}

template <class F>
DOTS_NEON void rows_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                       float* out) {
  const int64_t n_blocks = n / 32;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    float32x4_t dots[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    float32x4_t more[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    size_t at = 0;
    for (int64_t b = 0; b < n_blocks; ++b, at += F::kBytes) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      const DotBlock& block = x[b / 8];
      const int k = static_cast<int>(b % 8);
      const Bytes a{vld1q_s8(block.q + 32 * k), vld1q_s8(block.q + 32 * k + 16)};
      const float da = block.d[k];
      const int32x4_t sum =
          row_sums(lane_sums<F>(p0, a), lane_sums<F>(p1, a), lane_sums<F>(p2, a), lane_sums<F>(p3, a));
      dots[b % 4] = vfmaq_f32(dots[b % 4], vcvtq_f32_s32(sum), vmulq_n_f32(factors(p0, p1, p2, p3), da));
      if constexpr (F::kMins) {
        const auto of_block = static_cast<float>(block.sums[2 * k] + block.sums[2 * k + 1]);
        more[b % 4] = vfmaq_f32(more[b % 4], vdupq_n_f32(of_block),
                                vmulq_n_f32(factors(p0 + 2, p1 + 2, p2 + 2, p3 + 2), da));
      }
    }
    float32x4_t result = vaddq_f32(vaddq_f32(dots[0], dots[2]), vaddq_f32(dots[1], dots[3]));
    if constexpr (F::kMins) {
      result = vaddq_f32(result, vaddq_f32(vaddq_f32(more[0], more[2]), vaddq_f32(more[1], more[3])));
    }
    store_rows(result, n_rows - r, out + r);
  }
}

constexpr DotKernel kKernels[] = {
    {2, rows_32<Q40>},   {3, rows_32<Q41>},   {6, rows_32<Q50>},    {7, rows_32<Q51>},
    {8, rows_32<Q80>},   {10, rows_256<Q2K>}, {11, rows_256<Q3K>},  {12, rows_256<Q4K>},
    {13, rows_256<Q5K>}, {14, rows_256<Q6K>}, {20, rows_32<Iq4Nl>}, {23, rows_256<Iq4Xs>},
};

bool usable() {
  constexpr unsigned long kAsimdDp = 1UL << 20;  // HWCAP_ASIMDDP, which older headers lack
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
}

}  // namespace

const DotIsa kNeonDotprod{"neon_dotprod", usable, kKernels, neon::score_rows};

}  // namespace kernels

#endif  // __aarch64__
