#pragma once
// Rows into the bytes of a KV type, a warp for each: those the CPU writes (kernels/formats).

#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/kv_loaders.cuh"

namespace kernels::cuda {

// A warp's own room.
struct EncoderRoom {
  Shared<float> x;        // the row
  Shared<uint8_t> codes;  // of a tile
  Shared<uint8_t> ways;   // of a tile's paths through a trellis
};
inline constexpr int kWaysBytes = kMaxTile * 8;

// One slot of a page, to be written.
struct SlotOut {
  Global<uint8_t> codes, top, scales;
};
__device__ __forceinline__ SlotOut slot_out(const Planes& planes, Global<uint8_t> page, int slot) {
  return {page + slot * planes.codes_row, page + (planes.top_at + slot * planes.top_row),
          page + (planes.scales_at + slot * planes.scales_row)};
}

__device__ __forceinline__ uint16_t saturated_half(float x) {
  const float low = x < -kF16Max ? -kF16Max : x;
  return float_to_half(low > kF16Max ? kF16Max : low);
}
// As kernels::bf16_saturated.
__device__ __forceinline__ uint16_t saturated_bf16(float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffU, sign = bits >> 16 & 0x8000U;
  if (magnitude > kInfinityBits) {
    return static_cast<uint16_t>(sign | 0x7fc0U);
  }
  const uint32_t rounded = (magnitude + 0x7fffU + (magnitude >> 16 & 1U)) >> 16;
  return static_cast<uint16_t>(sign | (rounded > 0x7f7fU ? 0x7f7fU : rounded));
}

__device__ __forceinline__ uint32_t warp_largest(uint32_t x) {
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    x = larger(x, __shfl_xor_sync(kAllLanes, x, bits));
  }
  return x;
}

// Groups of 32 (the last of 16): lane i has value i.
__device__ __forceinline__ void write_q8_0(const EncoderRoom& room, int dim, const SlotOut& row) {
  for (int begin = 0; begin < dim; begin += kBlock) {
    const int lane = lane_id(), n = smaller(kBlock, dim - begin);
    const float x = lane < n ? room.x[begin + lane] : 0.0F;
    const uint32_t bits = warp_largest(magnitude_bits(x));
    const bool finite = bits < kInfinityBits;
    const float largest = finite ? __uint_as_float(bits) : 0.0F, d = __fdiv_rn(largest, 127.0F);
    const uint16_t scale = saturated_half(d);
    const float inverse = d > kF16Max ? 1.0F / kF16Max : scale == 0 ? 0.0F : __fdiv_rn(127.0F, largest);
    float q = finite ? __fmul_rn(x, inverse) : 0.0F;
    q = q < -127.0F ? -127.0F : q > 127.0F ? 127.0F : q;
    if (lane < n) {
      row.codes[begin + lane] = static_cast<uint8_t>(static_cast<int>(q < 0.0F ? q - 0.5F : q + 0.5F));
    }
    if (lane == 0) {
      store(row.scales + begin / kBlock * 2, scale);
    }
  }
}

// ---- Nibbles: what kernels/formats/nibbles.h describes ----

// Of a group: lane i's code, and the scales.
struct GroupCodes {
  uint32_t code;
  uint16_t d, m;
};
// The first of the lanes' values that are equal to this one of theirs.
__device__ __forceinline__ float first_equal(float x, float value) {
  return __shfl_sync(kAllLanes, x, __ffs(static_cast<int>(__ballot_sync(kAllLanes, x == value))) - 1);
}
// The first value of largest magnitude, and 0 or more beyond float's range.
__device__ __forceinline__ float first_extreme(float x, bool* finite) {
  const uint32_t bits = warp_largest(magnitude_bits(x));
  const uint32_t those = __ballot_sync(kAllLanes, magnitude_bits(x) == bits);
  *finite = bits < kInfinityBits;
  return __shfl_sync(kAllLanes, x, __ffs(static_cast<int>(those)) - 1);
}

// As round_about_zero. Lanes past the group's end bring zeros.
template <int kHalf>
struct AboutZero {
  static constexpr bool kMin = false, kFifth = kHalf == 16;
  static __device__ __forceinline__ GroupCodes round(float x, int /*n*/) {
    bool finite;
    const float extreme = first_extreme(x, &finite);
    const float d = finite ? __fdiv_rn(extreme, -static_cast<float>(kHalf)) : 0.0F;
    const uint16_t scale = saturated_half(d);
    const bool any = (scale & 0x7fffU) != 0;
    const float most = d < 0 ? -kF16Max : kF16Max;
    const float inverse = !any                         ? 0.0F
                          : (d < 0 ? -d : d) > kF16Max ? __fdiv_rn(1.0F, most)
                                                       : __fdiv_rn(1.0F, d);
    constexpr float kTop = 2 * kHalf - 1;
    float q = any ? __fmul_rn(x, inverse) + (kHalf + 0.5F) : static_cast<float>(kHalf);
    q = q < 0.0F ? 0.0F : q > kTop ? kTop : q;
    return {static_cast<uint32_t>(q), static_cast<uint16_t>(any ? scale : 0), 0};
  }
};

// As round_above_least.
template <int kMost>
struct AboveLeast {
  static constexpr bool kMin = true, kFifth = kMost == 31;
  static __device__ __forceinline__ GroupCodes round(float x, int n) {
    const float first = __shfl_sync(kAllLanes, x, 0);
    const float value = lane_id() < n ? x : first;
    const bool finite = warp_largest(magnitude_bits(value)) < kInfinityBits;
    if (!finite) {
      return {0, 0, 0};
    }
    const float largest = first_equal(value, warp_max(value)), least = first_equal(value, -warp_max(-value));
    float from = least < -kF16Max ? -kF16Max : least;
    from = from > kF16Max ? kF16Max : from;
    const float range = largest - from;
    float d = __fdiv_rn(range < 0.0F ? 0.0F : range, static_cast<float>(kMost));
    d = d > kF16Max ? kF16Max : d;
    const uint16_t scale = float_to_half(d), min = float_to_half(from);
    const float inverse = scale == 0 ? 0.0F : __fdiv_rn(1.0F, d);
    float q = scale == 0 ? 0.0F : __fmul_rn(value - from, inverse) + 0.5F;
    q = q < 0.0F ? 0.0F : q > static_cast<float>(kMost) ? static_cast<float>(kMost) : q;
    return {static_cast<uint32_t>(q), scale, min};
  }
};

// As iq4_nl::Code::quantize.
struct NearestIq4 {
  static constexpr bool kMin = false, kFifth = false;
  static __device__ __forceinline__ GroupCodes round(float x, int n) {
    constexpr uint32_t kLeast = 8;
    bool finite;
    const float extreme = first_extreme(x, &finite);
    if (!finite || (extreme < 0 ? -extreme : extreme) < 1e-7F) {
      return {kLeast, 0, 0};
    }
    const float inverse = __fdiv_rn(static_cast<float>(integer(0)), extreme);
    const double value = x, chosen = integer_of(nearest(__fmul_rn(x, inverse)));
    const double product = value * value * chosen * value, square = value * value * chosen * chosen;
    double products = 0, squares = 0;
    for (int i = 0; i < n; ++i) {  // in order: these sums round
      products += __shfl_sync(kAllLanes, product, i);
      squares += __shfl_sync(kAllLanes, square, i);
    }
    const double d = products / squares;
    const uint16_t scale = saturated_half(static_cast<float>(d));
    if ((scale & 0x7fffU) == 0) {
      return {kLeast, 0, 0};
    }
    const bool beyond = (d < 0 ? -d : d) > double{kF16Max};
    const float to_code = beyond ? __fdiv_rn(1.0F, d < 0 ? -kF16Max : kF16Max) : inverse;
    return {nearest(__fmul_rn(x, to_code)), scale, 0};
  }

 private:
  static __device__ __forceinline__ int integer(int i) {
    constexpr Table16 kTable = words_of(iq4_nl::kValues);
    return static_cast<int8_t>(kTable.w[i / 4] >> (i % 4 * 8));
  }
  static __device__ __forceinline__ int integer_of(uint32_t code) {
    constexpr Table16 kTable = words_of(iq4_nl::kValues);
    uint32_t low, high;
    look_up16(code, kTable, &low, &high);
    return static_cast<int8_t>(low);
  }
  static __device__ __forceinline__ uint32_t nearest(float u) {
    uint32_t code = 0;
    AR_UNROLL
    for (int i = 1; i < 16; ++i) {
      code += u >= 0.5F * static_cast<float>(integer(i - 1) + integer(i)) ? 1 : 0;
    }
    return code;
  }
};

template <class Code>
__device__ __forceinline__ void write_nibbles(const EncoderRoom& room, int dim, const SlotOut& row) {
  for (int begin = 0; begin < dim; begin += kBlock) {
    const int lane = lane_id(), n = smaller(kBlock, dim - begin), group = begin / kBlock;
    const GroupCodes codes = Code::round(lane < n ? room.x[begin + lane] : 0.0F, n);
    const uint32_t upper = __shfl_sync(kAllLanes, codes.code, (lane + n / 2) % kWarpThreads);
    if (lane < n / 2) {
      row.codes[begin / 2 + lane] = static_cast<uint8_t>((codes.code & 15U) | upper << 4);
    }
    if constexpr (Code::kFifth) {
      const uint32_t fifths = __ballot_sync(kAllLanes, (codes.code & 16U) != 0);
      if (lane < n / 8) {
        row.top[begin / 8 + lane] = static_cast<uint8_t>(fifths >> (8 * lane));
      }
    }
    if (lane == 0) {
      store(row.scales + group * (Code::kMin ? 4 : 2), codes.d);
      if constexpr (Code::kMin) {
        store(row.scales + (4 * group + 2), codes.m);
      }
    }
  }
}

// ---- Rotated tiles ----

// The sum of d values in the order of kernels/formats/tbq.cc: eight lanes of double.
template <class Value>
__device__ __forceinline__ double sum_in_order(int d, Value value) {
  double sum = 0;
  for (int i = lane_id(); i < d && lane_id() < 8; i += 8) {
    sum += value(i);
  }
  AR_UNROLL
  for (int bits = 4; bits > 0; bits /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, bits);
  }
  return __shfl_sync(kAllLanes, sum, 0);
}

template <const TbqGrid& kGrid>
struct GridOnDevice {
  static constexpr int kHalf = kGrid.half;
  static constexpr float kUnit = kGrid.unit;
  static constexpr uint64_t kPositive = [] {
    uint64_t bytes = 0;
    for (int i = 0; i < kGrid.half; ++i) {
      bytes |= static_cast<uint64_t>(kGrid.positive[i]) << (8 * i);
    }
    return bytes;
  }();
  static __device__ int positive(int i) { return static_cast<int>(kPositive >> (8 * i) & 255U); }
  // How many midpoints between centroids |u| is beyond.
  static __device__ int nearest(float u) {
    int index = 0;
    AR_UNROLL
    for (int c = 1; c < kHalf; ++c) {
      index += u > 0.5F * static_cast<float>(positive(c - 1) + positive(c)) ? 1 : 0;
    }
    return index;
  }
};
using Grid4 = GridOnDevice<kTbq4Grid>;
using Grid3 = GridOnDevice<kTbq3Grid>;

// As kernels::RotatedTile::rotate, in place. square: 0 for a tile that is stored as zeros.
struct Rotated {
  float shrink;
  double square;
};
__device__ __forceinline__ Rotated rotate_to_encode(Shared<float> z, int d) {
  uint32_t largest = 0;
  for (int i = lane_id(); i < d; i += kWarpThreads) {
    largest = larger(largest, magnitude_bits(z[i]));
  }
  largest = warp_largest(largest);
  const bool some = largest != 0 && largest < kInfinityBits;
  const float shrink = __uint_as_float(largest) > 0x1p100F ? 0x1p-64F : 1.0F;
  rotate_tile_by_warp(z, d, some ? shrink : 0.0F, false);
  const double square = some ? sum_in_order(d, [&](int i) { return double{z[i]} * double{z[i]}; }) : 0.0;
  return {shrink, square >= d * 0x1p-60 ? square : 0.0};
}
// The least-squares scale, from sums of the codes' integers.
__device__ __forceinline__ uint16_t scale_of(const Rotated& tile, double dot, int codes_square) {
  if (tile.square == 0.0) {
    return 0;
  }
  const uint16_t scale = saturated_half(static_cast<float>(dot / codes_square / double{tile.shrink}));
  return static_cast<uint16_t>((scale & 0x7fffU) == 0 ? 0 : scale);
}
__device__ __forceinline__ int warp_sum_of(int x) {
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, bits);
  }
  return x;
}

// As kernels::tbq_encode_tile: the codes of a tile into room.codes, returns its scale. Rotates the tile in place.
template <class Grid>
__device__ __forceinline__ uint16_t encode_tile(const EncoderRoom& room, int begin, int d) {
  const Shared<float> z = room.x + begin;
  const int lane = lane_id();
  const Rotated tile = rotate_to_encode(z, d);
  const float to_grid =
      tile.square == 0.0 ? 0.0F : static_cast<float>(double{Grid::kUnit} * sqrt(d / tile.square));
  int codes_square = 0;
  for (int i = lane; i < d; i += kWarpThreads) {
    const float u = __fmul_rn(z[i], to_grid);
    const int steps = Grid::nearest(u < 0 ? -u : u), c = Grid::positive(steps);
    codes_square += c * c;
    const bool negative = (__float_as_uint(z[i]) >> 31) != 0;
    room.codes[i] = static_cast<uint8_t>(negative ? Grid::kHalf - 1 - steps : Grid::kHalf + steps);
  }
  codes_square = warp_sum_of(codes_square);
  __syncwarp();
  const double dot = sum_in_order(d, [&](int i) {
    const int code = room.codes[i], steps = code < Grid::kHalf ? Grid::kHalf - 1 - code : code - Grid::kHalf;
    const float value = z[i];
    return double{value < 0 ? -value : value} * Grid::positive(steps);
  });
  const uint16_t scale = scale_of(tile, dot, codes_square);
  if (scale == 0) {
    __syncwarp();
    for (int i = lane; i < d; i += kWarpThreads) {
      room.codes[i] = 0;
    }
  }
  __syncwarp();
  return scale;
}

__device__ __forceinline__ void write_tbq4(const EncoderRoom& room, int dim, const SlotOut& row) {
  for (int begin = 0, tile = 0; begin < dim; ++tile) {
    const int d = tile_from(begin, dim), half = smaller(kUnit, d) / 2;
    const uint16_t scale = encode_tile<Grid4>(room, begin, d);
    for (int i = lane_id(); i < d / 2; i += kWarpThreads) {
      const int value = i / half * 2 * half + i % half;
      row.codes[begin / 2 + i] = static_cast<uint8_t>(room.codes[value] | room.codes[value + half] << 4);
    }
    if (lane_id() == 0) {
      store(row.scales + 2 * tile, scale);
    }
    __syncwarp();  // before the next tile's codes
    begin += d;
  }
}

__device__ __forceinline__ void write_tbq3(const EncoderRoom& room, int dim, const SlotOut& row) {
  for (int begin = 0, tile = 0; begin < dim; ++tile) {
    const int d = tile_from(begin, dim), quarter = smaller(kUnit, d) / 4;
    const uint16_t scale = encode_tile<Grid3>(room, begin, d);
    for (int i = lane_id(); i < d / 4; i += kWarpThreads) {
      const int first = i / quarter * 4 * quarter + i % quarter;
      uint32_t bits = 0;
      AR_UNROLL
      for (int k = 0; k < 4; ++k) {
        bits |= (room.codes[first + k * quarter] & 3U) << (2 * k);
      }
      row.codes[begin / 4 + i] = static_cast<uint8_t>(bits);
    }
    for (int i = lane_id(); i < (d + kWarpThreads - 1) / kWarpThreads * kWarpThreads; i += kWarpThreads) {
      const uint32_t thirds = __ballot_sync(kAllLanes, i < d && (room.codes[i] >> 2 & 1) != 0);
      if (lane_id() < 4 && i - lane_id() + 8 * lane_id() < d) {
        row.top[(begin + i - lane_id()) / 8 + lane_id()] = static_cast<uint8_t>(thirds >> (8 * lane_id()));
      }
    }
    if (lane_id() == 0) {
      store(row.scales + 2 * tile, scale);
    }
    __syncwarp();
    begin += d;
  }
}

// The windows of the path with the least squared error, as find_path in kernels/formats/tcq.cc, into room.codes. A state
// has kLanes lanes, each with two of the ways that lead to it.
template <const Trellis& kTrellis, const Table64& kTable>
__device__ __forceinline__ void find_path(const EncoderRoom& room, Shared<float> z, int d, float to_grid) {
  constexpr int kBits = kTrellis.bits, kStates = 1 << (kTrellisWindow - kBits), kWays = 1 << kBits;
  constexpr int kLanes = kWarpThreads / kStates;
  static_assert(kWays == 2 * kLanes);
  constexpr uint32_t kFar = 1U << 26;  // beyond any sum, which are integers under 2^24
  const int lane = lane_id(), state = lane / kLanes, way = lane % kLanes;
  int integers[2];
  AR_UNROLL
  for (int j = 0; j < 2; ++j) {
    const auto window = static_cast<uint32_t>((way + kLanes * j) | state << kBits);
    integers[j] = 2 * static_cast<int8_t>(look_up64<kTable>(window));
  }
  uint32_t cost = state == 0 ? 0 : kFar;
  for (int i = 0; i < d; ++i) {
    const int u = __float2int_rn(__fmul_rn(z[i], to_grid));
    uint32_t best = 0xffffffffU;
    AR_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int w = way + kLanes * j, error = u - integers[j];
      const uint32_t before = __shfl_sync(kAllLanes, cost, w % kStates * kLanes);
      const uint32_t sum =
          (before + static_cast<uint32_t>(error * error)) << kBits | static_cast<uint32_t>(w);
      best = sum < best ? sum : best;  // of equal ones the first way
    }
    AR_UNROLL
    for (int bits = 1; bits < kLanes; bits *= 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, best, bits);
      best = other < best ? other : best;
    }
    cost = best >> kBits;
    if (way == 0) {
      room.ways[i * kStates + state] = static_cast<uint8_t>(best & (kWays - 1));
    }
  }
  uint32_t end = cost << 3 | static_cast<uint32_t>(state);
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, end, bits);
    end = other < end ? other : end;
  }
  __syncwarp();
  if (lane == 0) {
    uint32_t at = end & 7U;
    for (int i = d - 1; i >= 0; --i) {
      uint64_t ways = 0;  // read whole: what is read does not wait for where the path was
      if constexpr (kStates == 8) {
        const uint2 both = load<uint2>(room.ways + 8 * i);
        ways = both.x | uint64_t{both.y} << 32;
      } else {
        ways = load<uint32_t>(room.ways + 4 * i);
      }
      const auto w = static_cast<uint32_t>(ways >> (8 * at) & (kWays - 1));
      room.codes[i] = static_cast<uint8_t>(w | at << kBits);
      at = w % kStates;
    }
  }
  __syncwarp();
}

// As kernels::trellis_write_row.
template <const Trellis& kTrellis, const Table64& kTable>
__device__ __forceinline__ void write_trellis(const EncoderRoom& room, int dim, const SlotOut& row) {
  constexpr int kBits = kTrellis.bits;
  constexpr float kUnits = kTrellis.unit;
  for (int begin = 0, tile = 0; begin < dim; ++tile) {
    const int d = tile_from(begin, dim);
    const Shared<float> z = room.x + begin;
    const Rotated rotated = rotate_to_encode(z, d);
    const bool some = rotated.square != 0.0;
    find_path<kTrellis, kTable>(
        room, z, d, some ? static_cast<float>(2.0 * double{kUnits} * sqrt(d / rotated.square)) : 0.0F);
    const auto integer = [&](int i) {
      return int{static_cast<int8_t>(look_up64<kTable>(uint32_t{room.codes[i]}))};
    };
    int codes_square = 0;
    for (int i = lane_id(); i < d; i += kWarpThreads) {
      const int c = integer(i);
      codes_square += c * c;
    }
    codes_square = warp_sum_of(codes_square);
    const double dot = sum_in_order(d, [&](int i) { return double{z[i]} * double(integer(i)); });
    const uint16_t scale = scale_of(rotated, dot, codes_square);
    for (int i = lane_id(); i < d * kBits / 8; i += kWarpThreads) {
      uint32_t byte = 0;
      for (int value = 8 * i / kBits; kBits * value < 8 * i + 8 && scale != 0; ++value) {
        const uint32_t code = uint32_t{room.codes[value]} >> (kTrellisWindow - kBits);
        const int shift = kBits * value - 8 * i;
        byte |= shift < 0 ? code >> -shift : code << shift;
      }
      row.codes[begin * kBits / 8 + i] = static_cast<uint8_t>(byte);
    }
    if (lane_id() == 0) {
      store(row.scales + 2 * tile, scale);
    }
    __syncwarp();  // before the next tile's codes
    begin += d;
  }
}

// ---- Any type ----

// The row, rotated where the type's rows are (by the caller's choice or their own).
__device__ __forceinline__ void write_elements(KvType type, const EncoderRoom& room, int dim,
                                               const SlotOut& row) {
  for (int i = lane_id(); i < dim; i += kWarpThreads) {
    const float x = room.x[i];
    if (type == KvType::kF32) {
      store(row.codes + 4 * i, x);
    } else {
      store(row.codes + 2 * i, type == KvType::kF16 ? saturated_half(x) : saturated_bf16(x));
    }
  }
}

__device__ __forceinline__ void write_row(KvType type, const EncoderRoom& room, int dim, const SlotOut& row) {
  switch (type) {
    case KvType::kF32:
    case KvType::kF16:
    case KvType::kBf16:
      return write_elements(type, room, dim, row);
    case KvType::kQ8_0:
      return write_q8_0(room, dim, row);
    case KvType::kQ5_1:
      return write_nibbles<AboveLeast<31>>(room, dim, row);
    case KvType::kQ5_0:
      return write_nibbles<AboutZero<16>>(room, dim, row);
    case KvType::kQ4_1:
      return write_nibbles<AboveLeast<15>>(room, dim, row);
    case KvType::kQ4_0:
      return write_nibbles<AboutZero<8>>(room, dim, row);
    case KvType::kIq4Nl:
      return write_nibbles<NearestIq4>(room, dim, row);
    case KvType::kTbq4_0:
      return write_tbq4(room, dim, row);
    case KvType::kTbq3_0:
      return write_tbq3(room, dim, row);
    case KvType::kTcq4_0:
      return write_trellis<kTrellis4, kTrellis4Words>(room, dim, row);
    case KvType::kTcq3_0:
      return write_trellis<kTrellis3, kTrellis3Words>(room, dim, row);
  }
}

}  // namespace kernels::cuda
