#pragma once
// What writing and reading KV pages share on the device: where planes lie, and the butterfly of a warp.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/rotate.h"
#include "kernels/formats/tbq.h"

namespace kernels::cuda {

// Bytes from a slot's row to the next in each plane, and where the later planes begin. Bit i of `starts`: a tile of the
// rotation begins at value 32i.
struct Planes {
  int codes_row, top_at, top_row, scales_at, scales_row;
  uint32_t starts;
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
  Global<const uint8_t> codes, top, scales;
  uint32_t starts;
};
__device__ __forceinline__ Global<uint8_t> page_at(const PagesOnDevice& side, int page, int head) {
  return side.pages + (page * side.page_stride + head * side.head_stride);
}
__device__ __forceinline__ SlotRow slot_at(const Planes& planes, Global<uint8_t> page, int slot) {
  return {page + slot * planes.codes_row, page + (planes.top_at + slot * planes.top_row),
          page + (planes.scales_at + slot * planes.scales_row), planes.starts};
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

}  // namespace kernels::cuda
