// Vector vocabulary shared by the float kernels. Included once per target by files that dispatch through
// hwy/foreach_target.h; everything in it lives in HWY_NAMESPACE. Which targets there are is settled before: the
// .cc includes kernels/isa.h ahead of any Highway header.

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>
#include "kernels/formats/half.h"
#include "kernels/isa.h"

#if defined(KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_SIMD_INL_H_
#undef KERNELS_SIMD_INL_H_
#else
#define KERNELS_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using VF = hn::Vec<FloatTag>;
inline constexpr int kLanes = static_cast<int>(HWY_LANES(float));
static_assert(kLanes <= 16, "blocks of 32 values and head sizes of 8n are cut into vectors of at most 16");
// Tokens that fit into the registers of a tile of four rows.
inline constexpr int kTileTokens = (HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2) ? 2 : 4;

// The first n < kLanes values, then zeros. (Highway 1.0.3 has no LoadN.)
HWY_INLINE VF load_padded(const float* p, int n) {
  alignas(64) float lanes[kLanes] = {};
  std::memcpy(lanes, p, sizeof(float) * static_cast<size_t>(n));
  return hn::Load(FloatTag(), lanes);
}

HWY_INLINE float sum_lanes(VF v) {
  return hn::GetLane(hn::SumOfLanes(FloatTag(), v));
}

// One fp16 in memory, as f32_from_f16 converts it.
HWY_INLINE float half_at(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return _cvtsh_ss(bits);
#elif HWY_TARGET == HWY_NEON
  __fp16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
#else
  return f32_from_f16(bits);
#endif
}

// Lanes(d) values of wider types in memory, aligned or not.
template <class D>
HWY_INLINE hn::Vec<D> words_at(D d, const uint8_t* p) {
#if HWY_TARGET == HWY_SCALAR
  hn::TFromD<D> value;
  std::memcpy(&value, p, sizeof value);
  return hn::Set(d, value);
#else
  return hn::LoadU(d, reinterpret_cast<const hn::TFromD<D>*>(p));
#endif
}

// Lanes(d) fp16 values in memory, as f32_from_f16 converts them.
template <class D>
HWY_INLINE hn::Vec<D> halves_at(D d, const uint8_t* p) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(d, half_at(p));
#elif HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> half;
  return hn::PromoteTo(d, hn::BitCast(half, words_at(d16, p)));
#else
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::PromoteTo(d32, words_at(d16, p));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(d32, 0x8000U)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(d32, 0x7fffU)));
  const auto finite = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112F));
  // Infinity and NaN: the exponent goes to all ones, and a NaN is made quiet.
  const auto infinity = hn::Set(d32, 0x7c00U << 13);
  const auto quiet = hn::IfThenElseZero(hn::Gt(magnitude, infinity), hn::Set(d32, 0x400000U));
  const auto special = hn::Or(hn::Or(magnitude, hn::Set(d32, 0x7f800000U)), quiet);
  const auto value = hn::IfThenElse(hn::Lt(magnitude, infinity), hn::BitCast(d32, finite), special);
  return hn::BitCast(d, hn::Or(value, sign));
#endif
}

// One fp16 in memory in every lane, as f32_from_f16 converts it.
HWY_INLINE VF half_in_all(const uint8_t* p) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
  // Broadcast, then convert: one instruction less than the other way round.
  const FloatTag df;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return hn::PromoteTo(df, hn::BitCast(half, hn::Set(d16, bits)));
#else
  return hn::Set(FloatTag(), half_at(p));
#endif
}

// Lanes(d) int8 values in memory as floats.
template <class D>
HWY_INLINE hn::Vec<D> bytes_at(D d, const int8_t* p) {
  const hn::Rebind<int8_t, D> d8;
  const hn::Rebind<int32_t, D> d32;
  return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, p)));
}

#if HWY_TARGET != HWY_SCALAR
using Bytes16 = hn::Vec<hn::Full128<int8_t>>;

// Lanes [kLanes * K, kLanes * (K + 1)) of 16 int8 values as floats.
template <int K>
HWY_INLINE VF bytes_piece(Bytes16 v) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Full128<int8_t> d8;
#if HWY_TARGET == HWY_AVX3
  static_assert(K == 0);
  (void)d8;
  return hn::ConvertTo(df, hn::PromoteTo(di, v));
#elif HWY_TARGET == HWY_AVX2
  static_assert(K < 2);
  return hn::ConvertTo(df, hn::PromoteTo(di, hn::LowerHalf(hn::ShiftRightBytes<8 * K>(d8, v))));
#else
  static_assert(K < 4);
  return hn::ConvertTo(df,
                       hn::PromoteTo(di, hn::LowerHalf(hn::LowerHalf(hn::ShiftRightBytes<4 * K>(d8, v)))));
#endif
}

// out[0..16) = scale * the 16 int8 values; out is aligned to a vector.
template <int K = 0>
HWY_INLINE void store_scaled(Bytes16 values, VF scale, float* out) {
  hn::Store(hn::Mul(scale, bytes_piece<K>(values)), FloatTag(), out + K * kLanes);
  if constexpr ((K + 1) * kLanes < 16) store_scaled<K + 1>(values, scale, out);
}
#endif

// Running dot products of four rows with one vector; lane j of each holds the terms i % kLanes == j, in
// ascending order of i. This order, then sum_lanes, defines the value of every dot product in kernels/.
struct Quad {
  VF r0, r1, r2, r3;

  // Not left to the compiler: GCC for Arm compiles an implicit constructor without this namespace's target.
  HWY_INLINE Quad() { r0 = r1 = r2 = r3 = hn::Zero(FloatTag()); }
  HWY_INLINE void load(const float* p) {
    const FloatTag df;
    r0 = hn::Load(df, p);
    r1 = hn::Load(df, p + kLanes);
    r2 = hn::Load(df, p + 2 * kLanes);
    r3 = hn::Load(df, p + 3 * kLanes);
  }
  HWY_INLINE void store(float* p) const {
    const FloatTag df;
    hn::Store(r0, df, p);
    hn::Store(r1, df, p + kLanes);
    hn::Store(r2, df, p + 2 * kLanes);
    hn::Store(r3, df, p + 3 * kLanes);
  }
  HWY_INLINE void add(VF w0, VF w1, VF w2, VF w3, VF x) {
    r0 = hn::MulAdd(w0, x, r0);
    r1 = hn::MulAdd(w1, x, r1);
    r2 = hn::MulAdd(w2, x, r2);
    r3 = hn::MulAdd(w3, x, r3);
  }
};

// The sums of the lanes of four vectors into out[0..4), each in one fixed order: neighbours last, the farthest lanes
// first.
HWY_INLINE void sum_lanes_of_four(VF r0, VF r1, VF r2, VF r3, float* out) {
#if HWY_TARGET == HWY_SCALAR
  const FloatTag df;
  hn::Store(r0, df, out);
  hn::Store(r1, df, out + 1);
  hn::Store(r2, df, out + 2);
  hn::Store(r3, df, out + 3);
#else
  const hn::Full128<float> d4;
#if HWY_TARGET == HWY_AVX3
  const hn::Full256<float> d8;
  const auto half = [&](VF v) { return hn::Add(hn::LowerHalf(d8, v), hn::UpperHalf(d8, v)); };
  const auto quarter = [&](VF v) {
    const auto w = half(v);
    return hn::Add(hn::LowerHalf(d4, w), hn::UpperHalf(d4, w));
  };
#elif HWY_TARGET == HWY_AVX2
  const auto quarter = [&](VF v) { return hn::Add(hn::LowerHalf(d4, v), hn::UpperHalf(d4, v)); };
#else
  const auto quarter = [](VF v) { return v; };
#endif
  const auto a = quarter(r0), b = quarter(r1), c = quarter(r2), d = quarter(r3);
  // Lanes 0 + 2 and 1 + 3 of two vectors at a time, then the two that are left of all four.
  const auto ab = hn::Add(hn::ConcatLowerLower(d4, b, a), hn::ConcatUpperUpper(d4, b, a));
  const auto cd = hn::Add(hn::ConcatLowerLower(d4, d, c), hn::ConcatUpperUpper(d4, d, c));
  hn::StoreU(hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab)), d4, out);
#endif
}

// Adds the terms of columns [0, n) of four aligned rows, `pitch` floats apart and zero-padded to whole
// vectors, times T vectors x_stride apart, to T quads in memory (4 * kLanes floats each).
template <int T>
HWY_INLINE void quad_dots(const float* rows, size_t pitch, const float* x, int64_t x_stride, int n,
                          float* quads) {
  const FloatTag df;
  Quad q0, q1, q2, q3;
  q0.load(quads);
  if constexpr (T > 1) q1.load(quads + 4 * kLanes);
  if constexpr (T > 2) q2.load(quads + 8 * kLanes);
  if constexpr (T > 3) q3.load(quads + 12 * kLanes);
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF w0 = hn::Load(df, rows + i);
    const VF w1 = hn::Load(df, rows + pitch + i);
    const VF w2 = hn::Load(df, rows + 2 * pitch + i);
    const VF w3 = hn::Load(df, rows + 3 * pitch + i);
    q0.add(w0, w1, w2, w3, hn::LoadU(df, x + i));
    if constexpr (T > 1) q1.add(w0, w1, w2, w3, hn::LoadU(df, x + x_stride + i));
    if constexpr (T > 2) q2.add(w0, w1, w2, w3, hn::LoadU(df, x + 2 * x_stride + i));
    if constexpr (T > 3) q3.add(w0, w1, w2, w3, hn::LoadU(df, x + 3 * x_stride + i));
  }
  if (i < n) {
    const VF w0 = hn::Load(df, rows + i);
    const VF w1 = hn::Load(df, rows + pitch + i);
    const VF w2 = hn::Load(df, rows + 2 * pitch + i);
    const VF w3 = hn::Load(df, rows + 3 * pitch + i);
    q0.add(w0, w1, w2, w3, load_padded(x + i, n - i));
    if constexpr (T > 1) q1.add(w0, w1, w2, w3, load_padded(x + x_stride + i, n - i));
    if constexpr (T > 2) q2.add(w0, w1, w2, w3, load_padded(x + 2 * x_stride + i, n - i));
    if constexpr (T > 3) q3.add(w0, w1, w2, w3, load_padded(x + 3 * x_stride + i, n - i));
  }
  q0.store(quads);
  if constexpr (T > 1) q1.store(quads + 4 * kLanes);
  if constexpr (T > 2) q2.store(quads + 8 * kLanes);
  if constexpr (T > 3) q3.store(quads + 12 * kLanes);
}

// The same for any number of vectors.
HWY_INLINE void quad_dots_all(const float* rows, size_t pitch, const float* x, int64_t x_stride, int n_x,
                              int n, float* quads) {
  int t = 0;
  for (; t + kTileTokens <= n_x; t += kTileTokens) {
    quad_dots<kTileTokens>(rows, pitch, x + t * x_stride, x_stride, n, quads + t * 4 * kLanes);
  }
  for (; t < n_x; ++t) {
    quad_dots<1>(rows, pitch, x + t * x_stride, x_stride, n, quads + t * 4 * kLanes);
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_SIMD_INL_H_
