#pragma once
// What writing and reading KV pages share on the device: where planes lie, the butterfly of a warp, and tile loaders.
//
// Loaders unpack units of n = 32 values (16 at the end of heads like 80), "pairs" at a time: the four values from 4k and
// the four from n / 2 + 4k, k < n / 8, which lie together in every packed format. A loader of integers is a struct with
//   kTiles                       groups that share a scale: tiles of the rotation; else units
//   kOffset                      value = scale * (integer - kOffset)
//   load_unit(row, begin, n)     the bytes of a unit; pick(unit, n, k): those of pair k (k a constant of the code)
//   load_pair(row, begin, n, k)  the bytes of pair k alone
//   unpack(pair, n, k, a, b)     both fours of pair k: int8, or bytes from 0 where kOffset is not 0

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/weights.cuh"
#include "kernels/formats/rotate.h"
#include "kernels/formats/tbq.h"

namespace kernels::cuda {

// Bytes from a slot's row to the next in each plane, and where the later planes begin.
struct Planes {
  int codes_row, top_at, top_row, scales_at, scales_row;
};
struct PagesOnDevice {
  KvType type;
  Global<uint8_t> pages;
  int64_t page_stride, head_stride;
  Planes planes;
};
PagesOnDevice on_device(const KvPages& pages, int head_dim);

// One slot of a page.
struct SlotRow {
  Global<uint8_t> codes, top, scales;
};
__device__ __forceinline__ Global<uint8_t> page_at(const PagesOnDevice& side, int page, int head) {
  return side.pages + (page * side.page_stride + head * side.head_stride);
}
__device__ __forceinline__ SlotRow slot_at(const Planes& planes, Global<uint8_t> page, int slot) {
  return {page + slot * planes.codes_row, page + (planes.top_at + slot * planes.top_row),
          page + (planes.scales_at + slot * planes.scales_row)};
}

// The tile that begins here: as kernels::tile_at.
__device__ __forceinline__ int tile_from(int begin, int head_dim) {
  int tile = kMaxTile;
  while (tile > head_dim - begin) {
    tile /= 2;
  }
  return tile;
}

// ---- The butterfly: a tile of kLaneValues * 32 values, or of d < 32 in the first lanes, value V * lane + j in v[j] ----

template <int V>
__device__ __forceinline__ void butterfly(float (&v)[V], int lanes) {
  AR_UNROLL
  for (int stride = 1; stride < V; stride *= 2) {
    AR_UNROLL
    for (int i = 0; i < V; ++i) {
      if ((i & stride) == 0) {
        const float a = v[i], b = v[i + stride];
        v[i] = a + b;
        v[i + stride] = a - b;
      }
    }
  }
  for (int bits = 1; bits < lanes; bits *= 2) {
    AR_UNROLL
    for (int i = 0; i < V; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, v[i], bits);
      v[i] = (lane_id() & bits) == 0 ? v[i] + other : other - v[i];
    }
  }
}

template <int V>
__device__ __forceinline__ void turn_tile(Shared<float> tile, int d, float factor, bool back) {
  const int lane = lane_id(), first = V * lane;
  constexpr float kRoots[] = {kInverseRoot[4], kInverseRoot[5], kInverseRoot[6], kInverseRoot[7]};
  const float root = d == 128 ? kRoots[3] : d == 64 ? kRoots[2] : d == 32 ? kRoots[1] : kRoots[0];
  constexpr uint64_t kLow = kSigmaWords[0], kHigh = kSigmaWords[1];
  const uint64_t word = (first < 64 ? kLow : kHigh) >> (first & 63);
  float v[V];
  AR_UNROLL
  for (int j = 0; j < V; ++j) {
    const float sigma = (word >> j & 1U) != 0 ? -1.0F : 1.0F;
    v[j] = first < d ? tile[first + j] * (back ? factor : sigma * factor) : 0.0F;
  }
  butterfly<V>(v, d / V);
  AR_UNROLL
  for (int j = 0; j < V; ++j) {
    const float sigma = back && (word >> j & 1U) != 0 ? -1.0F : 1.0F;
    if (first < d) {
      tile[first + j] = v[j] * (root * sigma);
    }
  }
}

// By one warp, whose lanes have met before and meet after: factor * tile rotated (or back), in place. factor: 1 or a
// power of two. d: 16 to 128.
__device__ __forceinline__ void rotate_tile_by_warp(Shared<float> tile, int d, float factor, bool back) {
  __syncwarp();
  if (d == 128) {
    turn_tile<4>(tile, d, factor, back);
  } else if (d == 64) {
    turn_tile<2>(tile, d, factor, back);
  } else {
    turn_tile<1>(tile, d, factor, back);
  }
  __syncwarp();
}

__device__ __forceinline__ void rotate_by_warp(Shared<float> head, int dim, bool back) {
  for (int begin = 0; begin < dim; begin += tile_from(begin, dim)) {
    rotate_tile_by_warp(head + begin, tile_from(begin, dim), 1.0F, back);
  }
}

// ---- Loaders ----

struct RawUnit {
  uint32_t w[8];
  uint32_t top;
};
struct RawPair {
  uint32_t a, b;
};

__device__ __forceinline__ void load_16(Global<const uint8_t> p, uint32_t* out) {
  const uint4 v = load<uint4>(p);
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}

template <class Nibbles>
struct NibbleLoader {
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    const Global<const uint8_t> p = row.codes + begin / 2;
    if ((address_of(p) & 15U) == 0 && n == 32) {
      load_16(p, raw.w);
      return raw;
    }
    AR_UNROLL
    for (int k = 0; k < 4; ++k) {
      raw.w[k] = k < n / 8 ? load<uint32_t>(p + 4 * k) : 0;
    }
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int /*n*/, int k) {
    return {unit.w[k], 0};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int /*n*/, int k) {
    return {load<uint32_t>(row.codes + (begin / 2 + 4 * k)), 0};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int /*n*/, int /*k*/, uint32_t* a,
                                                uint32_t* b) {
    Nibbles::split(pair.a, a, b);
  }
};
struct PlainNibbles {
  static __device__ __forceinline__ void split(uint32_t word, uint32_t* a, uint32_t* b) {
    *a = word & kNibbles;
    *b = word >> 4 & kNibbles;
  }
};
struct Tbq4Nibbles {
  static __device__ __forceinline__ void split(uint32_t word, uint32_t* a, uint32_t* b) {
    constexpr Table16 kTable = words_of(kTbq4Table);
    look_up16(word, kTable, a, b);
  }
};
struct KvQ4_0 : NibbleLoader<PlainNibbles> {
  static constexpr bool kTiles = false;
  static constexpr int kOffset = 8;
};
struct KvTbq4 : NibbleLoader<Tbq4Nibbles> {
  static constexpr bool kTiles = true;
  static constexpr int kOffset = 0;
};

struct KvQ8_0 {
  static constexpr bool kTiles = false;
  static constexpr int kOffset = 0;
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    load_16(row.codes + begin, raw.w);
    if (n == 32) {
      load_16(row.codes + (begin + 16), raw.w + 4);
    }
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int n, int k) {
    return {unit.w[k], n == 32 ? unit.w[k + 4] : unit.w[k % 2 + 2]};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load<uint32_t>(row.codes + (begin + 4 * k)), load<uint32_t>(row.codes + (begin + n / 2 + 4 * k))};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int /*n*/, int /*k*/, uint32_t* a,
                                                uint32_t* b) {
    *a = pair.a;
    *b = pair.b;
  }
};

// Pairs: a word of the lower bits, and the unit's third bits.
struct KvTbq3 {
  static constexpr bool kTiles = true;
  static constexpr int kOffset = 0;
  static __device__ __forceinline__ uint32_t load_top(const SlotRow& row, int begin, int n) {
    const Global<const uint8_t> top = row.top + begin / 8;  // rows of heads like 80 are aligned to two
    return load<uint16_t>(top) | (n == 32 ? uint32_t{load<uint16_t>(top + 2)} << 16 : 0U);
  }
  static __device__ __forceinline__ RawUnit load_unit(const SlotRow& row, int begin, int n) {
    RawUnit raw{};
    const Global<const uint8_t> low = row.codes + begin / 4;
    raw.w[0] = load<uint32_t>(low);
    raw.w[1] = n == 32 ? load<uint32_t>(low + 4) : 0;
    raw.top = load_top(row, begin, n);
    return raw;
  }
  static __device__ __forceinline__ RawPair pick(const RawUnit& unit, int n, int k) {
    return {n == 32 ? unit.w[k % 2] : unit.w[0], unit.top};
  }
  static __device__ __forceinline__ RawPair load_pair(const SlotRow& row, int begin, int n, int k) {
    return {load<uint32_t>(row.codes + (begin / 4 + (n == 32 ? k % 2 * 4 : 0))), load_top(row, begin, n)};
  }
  static __device__ __forceinline__ void unpack(RawPair pair, int n, int k, uint32_t* a, uint32_t* b) {
    const int field = n == 32 ? k / 2 : k;  // values b, b + n / 4, b + n / 2 and b + 3n / 4 share a byte
    *a = look_up8(pair.a >> (2 * field), pair.b >> (4 * k));
    *b = look_up8(pair.a >> (2 * field + 4), pair.b >> (n / 2 + 4 * k));
  }

 private:
  // The lowest two bits of each byte and the lowest four of `third`: four indices into eight centroids.
  static __device__ __forceinline__ uint32_t look_up8(uint32_t two, uint32_t third) {
    constexpr Table16 kTable = words_of(kTbq3Table);
    uint32_t index = (two & 0x03030303U) | spread_bits(third) << 2;
    index = (index | index >> 4) & 0x00ff00ffU;  // a nibble each
    return __byte_perm(kTable.w[0], kTable.w[1], index | index >> 8);
  }
};

// Elements: floats as they are.
struct KvF16 {
  static constexpr int kBytes = 2;
  static __device__ float4 load_four(Global<const uint8_t> p) {
    const uint2 v = load<uint2>(p);
    return {half_to_float(static_cast<uint16_t>(v.x)), half_to_float(static_cast<uint16_t>(v.x >> 16)),
            half_to_float(static_cast<uint16_t>(v.y)), half_to_float(static_cast<uint16_t>(v.y >> 16))};
  }
};
struct KvBf16 {
  static constexpr int kBytes = 2;
  static __device__ float4 load_four(Global<const uint8_t> p) {
    const uint2 v = load<uint2>(p);
    return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000U), __uint_as_float(v.y << 16),
            __uint_as_float(v.y & 0xffff0000U)};
  }
};
struct KvF32 {
  static constexpr int kBytes = 4;
  static __device__ float4 load_four(Global<const uint8_t> p) { return load<float4>(p); }
};

}  // namespace kernels::cuda
