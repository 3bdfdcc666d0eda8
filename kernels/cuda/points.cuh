#pragma once
// Loaders of weight formats that are multiplied as floats: eight values at a time, which are integers under one factor.
// Most are points of a codebook with signs (kernels/formats/iq_grids.h). A loader is a struct with
//   kValues, kBytes     of a block
//   load(block, eight)  values 8 * eight and on
// value = factor * code, exact until that product is rounded, as in formats/parts.h.

#include "kernels/cuda/weights.cuh"
#include "kernels/formats/iq_points.h"
#include "kernels/formats/mxfp4.h"

namespace kernels::cuda {

struct Eight {
  uint32_t codes[2];  // int8 each
  float factor;
};

// In the device's memory, not its constant bank: lanes look up points of their own.
__device__ constexpr auto kIq2XxsTable = spelled_out<uint64_t, 2>(kPointsIq2Xxs, kLevelsIq2);
__device__ constexpr auto kIq2XsTable = spelled_out<uint64_t, 2>(kPointsIq2Xs, kLevelsIq2);
__device__ constexpr auto kIq2STable = spelled_out<uint64_t, 2>(kPointsIq2S, kLevelsIq2);
__device__ constexpr auto kIq3XxsTable = spelled_out<uint32_t, 3>(kPointsIq3Xxs, kLevelsIq3Xxs);
__device__ constexpr auto kIq3STable = spelled_out<uint32_t, 3>(kPointsIq3S, kLevelsIq3S);

__device__ __forceinline__ uint32_t word_at(Global<const uint8_t> p) {  // aligned to two
  return load<uint16_t>(p) | uint32_t{load<uint16_t>(p + 2)} << 16;
}
// Eight signs of seven: the number of minuses is even.
__device__ __forceinline__ uint32_t even_sign_bits(uint32_t seven) {
  return seven | (static_cast<uint32_t>(__popc(static_cast<int>(seven))) & 1U) << 7;
}
// Four magnitudes, none of them 0, negative where the lowest bits of `signs` say so.
__device__ __forceinline__ uint32_t signed_bytes(uint32_t magnitudes, uint32_t signs) {
  const uint32_t ones = spread_bits(signs);
  return (magnitudes ^ ones * 255U) + ones;
}
__device__ __forceinline__ Eight point_of(uint64_t magnitudes, uint32_t signs, float factor) {
  return {{signed_bytes(static_cast<uint32_t>(magnitudes), signs),
           signed_bytes(static_cast<uint32_t>(magnitudes >> 32), signs >> 4)},
          factor};
}

struct IQ2XXS {
  static constexpr int kValues = 256, kBytes = 66;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    const int part = eight / 4, k = eight % 4;
    const uint32_t bits = word_at(block + 6 + 8 * part);
    return point_of(kIq2XxsTable[static_cast<size_t>(byte_at(block + 2 + 8 * part + k))],
                    even_sign_bits(bits >> (7 * k) & 127U),
                    half_at(block) * (static_cast<float>(2 * (bits >> 28) + 1) * 0.125F));
  }
};

// The scale of a half part among `scales`, a nibble each.
__device__ __forceinline__ float half_part_scale(Global<const uint8_t> scales, int part, int k) {
  return static_cast<float>(2 * (byte_at(scales + part) >> (k / 2 * 4) & 15) + 1) * 0.125F;
}
struct IQ2XS {
  static constexpr int kValues = 256, kBytes = 74;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    const uint32_t point = ::load<uint16_t>(block + 2 + 2 * eight);
    return point_of(kIq2XsTable[point & 511U], even_sign_bits(point >> 9),
                    half_at(block) * half_part_scale(block + 66, eight / 4, eight % 4));
  }
};
struct IQ2S {
  static constexpr int kValues = 256, kBytes = 82;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    const int part = eight / 4, k = eight % 4;
    const int point = byte_at(block + 2 + eight) | (byte_at(block + 66 + part) >> (2 * k) & 3) << 8;
    return point_of(kIq2STable[static_cast<size_t>(point)],
                    static_cast<uint32_t>(byte_at(block + 34 + eight)),
                    half_at(block) * half_part_scale(block + 74, part, k));
  }
};
struct IQ3XXS {
  static constexpr int kValues = 256, kBytes = 98;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    const int part = eight / 4, k = eight % 4;
    const uint32_t points = ::load<uint16_t>(block + 2 + 2 * eight), bits = word_at(block + 66 + 4 * part);
    return point_of(kIq3XxsTable[points & 255U] | uint64_t{kIq3XxsTable[points >> 8]} << 32,
                    even_sign_bits(bits >> (7 * k) & 127U),
                    half_at(block) * (static_cast<float>(2 * (bits >> 28) + 1) * 0.25F));
  }
};
struct IQ3S {
  static constexpr int kValues = 256, kBytes = 110;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    const int part = eight / 4, k = eight % 4;
    const uint32_t points = ::load<uint16_t>(block + 2 + 2 * eight);
    const auto ninths = static_cast<uint32_t>(byte_at(block + 66 + part) >> (2 * k));
    const int s = byte_at(block + 106 + part / 2) >> (part % 2 * 4) & 15;
    return point_of(kIq3STable[(points & 255U) | (ninths & 1U) << 8] |
                        uint64_t{kIq3STable[points >> 8 | (ninths & 2U) << 7]} << 32,
                    static_cast<uint32_t>(byte_at(block + 74 + eight)),
                    half_at(block) * static_cast<float>(2 * s + 1));
  }
};

// Blocks of 17 bytes: nothing in them is aligned.
struct MXFP4 {
  static constexpr int kValues = 32, kBytes = 17;
  static __device__ __forceinline__ Eight load(Global<const uint8_t> block, int eight) {
    constexpr Table16 kTable = words_of(mxfp4::kDoubled);
    Eight out{};
    AR_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint32_t word = 0, low, high;
      AR_UNROLL
      for (int j = 0; j < 4; ++j) {
        word |= static_cast<uint32_t>(byte_at(block + 1 + eight % 2 * 8 + 4 * i + j)) << (8 * j);
      }
      look_up16(word, kTable, &low, &high);
      out.codes[i] = eight < 2 ? low : high;
    }
    const auto e = static_cast<uint32_t>(byte_at(block));
    out.factor = __uint_as_float(e < 2 ? 0x200000U << e : (e - 1) << 23);  // as mxfp4::Layout::factor
    return out;
  }
};

}  // namespace kernels::cuda
