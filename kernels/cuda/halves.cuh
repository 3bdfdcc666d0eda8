#pragma once
// float16 as kernels compute with it: pairs in a word, the first value low.

#include "kernels/cuda/device.cuh"
#include "kernels/formats/half.h"

namespace kernels::cuda {

// What is too large becomes the largest there is.
__device__ __forceinline__ uint32_t half_of(float x) {
  const float low = x < -kF16Max ? -kF16Max : x;
  return float_to_half(low > kF16Max ? kF16Max : low);
}
__device__ __forceinline__ uint32_t halves_of(float low, float high) {
  return half_of(low) | half_of(high) << 16;
}
// The largest float16 not beyond a positive normal x, for constants of the code.
constexpr uint16_t f16_below(float x) {
  int exponent = 15;
  for (; x >= 2; x /= 2) {
    ++exponent;
  }
  for (; x < 1; x *= 2) {
    --exponent;
  }
  return static_cast<uint16_t>(exponent << 10 | static_cast<int>((x - 1) * 1024));
}
// The value twice.
__device__ __forceinline__ uint32_t both_halves(uint16_t bits) {
  return bits * 0x10001U;
}

#ifdef __CUDACC__

// a * b + c, and a - b, of both values.
__device__ __forceinline__ uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
__device__ __forceinline__ uint32_t subtract_halves(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

#else

template <class Op>
uint32_t of_halves(uint32_t a, uint32_t b, uint32_t c, Op op) {
  const auto one = [&](int shift) {
    const auto value = [&](uint32_t word) { return half_to_float(static_cast<uint16_t>(word >> shift)); };
    return uint32_t{float_to_half(op(value(a), value(b), value(c)))} << shift;
  };
  return one(0) | one(16);
}
inline uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  return of_halves(a, b, c, [](float x, float y, float z) { return std::fma(x, y, z); });
}
inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
  return of_halves(a, b, 0, [](float x, float y, float /*z*/) { return x - y; });
}

#endif

// Four bytes, kBias too large, times `scale` plus `add` (pairs): as bytes under the exponent of 1024.
template <int kBias>
__device__ __forceinline__ uint2 scaled_halves(uint32_t bytes, uint32_t scale, uint32_t add) {
  constexpr uint32_t kTaken = (0x6400U + kBias) * 0x10001U;
  const uint32_t low = subtract_halves(__byte_perm(bytes, 0x64646464U, 0x4140), kTaken);
  const uint32_t high = subtract_halves(__byte_perm(bytes, 0x64646464U, 0x4342), kTaken);
  return {fma_halves(low, scale, add), fma_halves(high, scale, add)};
}

}  // namespace kernels::cuda
