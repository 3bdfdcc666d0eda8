#pragma once
// Scalar conversions between float32 and the two 16-bit floats, the specification of every faster path.

#include <bit>
#include <cstdint>
#include <cstring>

namespace kernels {

inline constexpr float kF16Max = 65504.0F;

// Exact. Signalling NaNs come out quiet, as every instruction set's own conversion does it.
inline float f32_from_f16(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000U} << 16;
  const uint32_t magnitude = h & 0x7fffU;
  if (magnitude >= 0x7c00U) {
    const uint32_t quiet = magnitude > 0x7c00U ? 0x400000U : 0;
    return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13) | quiet);
  }
  // A float of the same exponent and mantissa bits is 2^-112 times the value, subnormals included.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

// Round to nearest, ties to even; beyond 65504 becomes infinity, NaN stays NaN.
inline uint16_t f16_from_f32(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return sign | 0x7e00U;
  }
  if (magnitude >= 0x477ff000U) {  // 65520: the first value that rounds past 65504
    return sign | 0x7c00U;
  }
  if (magnitude < 0x38800000U) {  // under 2^-14: let float addition do the rounding at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U));
  }
  const uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

// As f16_from_f32, but what is too large becomes the largest finite value: a stored scale or cache value must
// never be infinite.
inline uint16_t f16_saturated(float f) {
  const float low = f < -kF16Max ? -kF16Max : f;
  return f16_from_f32(low > kF16Max ? kF16Max : low);
}

inline float f32_from_bf16(uint16_t h) {
  return std::bit_cast<float>(uint32_t{h} << 16);
}

// Round to nearest, ties to even; what is too large becomes the largest finite value, NaN stays NaN.
inline uint16_t bf16_saturated(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t magnitude = bits & 0x7fffffffU;
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  if (magnitude > 0x7f800000U) {
    return sign | 0x7fc0U;
  }
  const uint32_t rounded = (magnitude + 0x7fffU + (magnitude >> 16 & 1U)) >> 16;
  return static_cast<uint16_t>(sign | (rounded > 0x7f7fU ? 0x7f7fU : rounded));
}

template <class T>
inline T load_unaligned(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class T>
inline void store_unaligned(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

}  // namespace kernels
