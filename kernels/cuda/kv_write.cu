#include "kernels/cuda/kv.cuh"
#include "kernels/formats/kv_page.h"
#include "src/base/check.h"

namespace kernels::cuda {

PagesOnDevice on_device(const KvPages& pages, int head_dim) {
  PagesOnDevice out{pages.type, static_cast<uint8_t*>(pages.pages), pages.page_stride, pages.head_stride, {}};
  Planes& planes = out.planes;
  switch (pages.type) {
    case KvType::kF32:
      planes.codes_row = 4 * head_dim;
      return out;
    case KvType::kF16:
    case KvType::kBf16:
      planes.codes_row = 2 * head_dim;
      return out;
    case KvType::kQ8_0:
      planes.codes_row = head_dim;
      break;
    case KvType::kQ4_0:
    case KvType::kTbq4_0:
      planes.codes_row = head_dim / 2;
      break;
    case KvType::kTbq3_0:
      planes.codes_row = head_dim / 4;
      planes.top_row = head_dim / 8;
      break;
  }
  const bool tiles = pages.type == KvType::kTbq4_0 || pages.type == KvType::kTbq3_0;
  planes.scales_row = 2 * (tiles ? tile_count(head_dim) : group_count(head_dim, kBlock));
  planes.top_at = static_cast<int>(plane_bytes(static_cast<size_t>(planes.codes_row)));
  planes.scales_at = planes.top_at + static_cast<int>(plane_bytes(static_cast<size_t>(planes.top_row)));
  return out;
}

std::optional<KvType> kv_type(const KvFormat& format, int head_dim) {
  constexpr std::pair<std::string_view, KvType> kTypes[] = {
      {"f32", KvType::kF32},       {"f16", KvType::kF16},   {"bf16", KvType::kBf16},
      {"q8_0", KvType::kQ8_0},     {"q4_0", KvType::kQ4_0}, {"tbq4_0", KvType::kTbq4_0},
      {"tbq3_0", KvType::kTbq3_0},
  };
  for (const auto& [name, type] : kTypes) {
    if (name == format.name && head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMostKvDim) {
      return type;
    }
  }
  return std::nullopt;
}

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;  // each a head of its own
static_assert(kWarps * (kMostKvDim * sizeof(float) + kMaxTile) <= kLeastSharedBytes);

struct SideArgs {
  PagesOnDevice pages, exact;
  Global<const float> rows, mean;
  int dim;
  bool rotate, rotates_itself;
};
struct WriteArgs {
  int most_rows;
  Global<const int> used_rows;
  SideArgs k, v;
  int heads;
  Global<const int> page, slot, exact_page;
};

// A warp's own room.
struct Room {
  Shared<float> x;        // the row
  Shared<uint8_t> codes;  // of a tile
};

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
__device__ __forceinline__ void write_q8_0(const Room& room, int dim, const SlotRow& row) {
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

__device__ __forceinline__ void write_q4_0(const Room& room, int dim, const SlotRow& row) {
  for (int begin = 0; begin < dim; begin += kBlock) {
    const int lane = lane_id(), n = smaller(kBlock, dim - begin);
    const float x = lane < n ? room.x[begin + lane] : 0.0F;
    const uint32_t bits = warp_largest(magnitude_bits(x));
    // The first value of largest magnitude gives the scale its sign.
    const uint32_t those = __ballot_sync(kAllLanes, magnitude_bits(x) == bits);
    const float extreme = __shfl_sync(kAllLanes, x, __ffs(static_cast<int>(those)) - 1);
    const bool finite = bits < kInfinityBits;
    const float d = finite ? __fdiv_rn(extreme, -8.0F) : 0.0F;
    const uint16_t scale = saturated_half(d);
    const bool any = (scale & 0x7fffU) != 0;
    const float most = d < 0 ? -kF16Max : kF16Max;
    const float inverse = !any                         ? 0.0F
                          : (d < 0 ? -d : d) > kF16Max ? __fdiv_rn(1.0F, most)
                                                       : __fdiv_rn(1.0F, d);
    float q = any ? __fmul_rn(x, inverse) + 8.5F : 8.0F;
    q = q < 0.0F ? 0.0F : q > 15.0F ? 15.0F : q;
    const auto code = static_cast<uint32_t>(q);
    const uint32_t upper = __shfl_sync(kAllLanes, code, lane + n / 2);
    if (lane < n / 2) {
      row.codes[begin / 2 + lane] = static_cast<uint8_t>(code | upper << 4);
    }
    if (lane == 0) {
      store(row.scales + begin / kBlock * 2, static_cast<uint16_t>(any ? scale : 0));
    }
  }
}

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

// As kernels::tbq_encode_tile: the codes of a tile into room.codes, returns its scale. Rotates the tile in place.
template <class Grid>
__device__ __forceinline__ uint16_t encode_tile(const Room& room, int begin, int d) {
  const Shared<float> z = room.x + begin;
  const int lane = lane_id();
  uint32_t largest = 0;
  for (int i = lane; i < d; i += kWarpThreads) {
    largest = larger(largest, magnitude_bits(z[i]));
  }
  largest = warp_largest(largest);
  const bool some = largest != 0 && largest < kInfinityBits;
  const float shrink = __uint_as_float(largest) > 0x1p100F ? 0x1p-64F : 1.0F;
  rotate_tile_by_warp(z, d, some ? shrink : 0.0F, false);
  double square = some ? sum_in_order(d, [&](int i) { return double{z[i]} * double{z[i]}; }) : 0.0;
  const float to_grid = square == 0.0 ? 0.0F : static_cast<float>(double{Grid::kUnit} * sqrt(d / square));
  int codes_square = 0;
  for (int i = lane; i < d; i += kWarpThreads) {
    const float u = __fmul_rn(z[i], to_grid);
    const int steps = Grid::nearest(u < 0 ? -u : u), c = Grid::positive(steps);
    codes_square += c * c;
    const bool negative = (__float_as_uint(z[i]) >> 31) != 0;
    room.codes[i] = static_cast<uint8_t>(negative ? Grid::kHalf - 1 - steps : Grid::kHalf + steps);
  }
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    codes_square += __shfl_xor_sync(kAllLanes, codes_square, bits);
  }
  __syncwarp();
  const double dot = sum_in_order(d, [&](int i) {
    const int code = room.codes[i], steps = code < Grid::kHalf ? Grid::kHalf - 1 - code : code - Grid::kHalf;
    const float value = z[i];
    return double{value < 0 ? -value : value} * Grid::positive(steps);
  });
  uint16_t scale = 0;
  if (square != 0.0) {
    scale = saturated_half(static_cast<float>(dot / codes_square / double{shrink}));
  }
  if (scale == 0) {
    __syncwarp();
    for (int i = lane; i < d; i += kWarpThreads) {
      room.codes[i] = 0;
    }
  }
  __syncwarp();
  return scale;
}

__device__ __forceinline__ void write_tbq4(const Room& room, int dim, const SlotRow& row) {
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

__device__ __forceinline__ void write_tbq3(const Room& room, int dim, const SlotRow& row) {
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

// The row, rotated where the type's rows are (by the caller's choice or their own).
__device__ __forceinline__ void write_elements(KvType type, const Room& room, int dim, const SlotRow& row) {
  for (int i = lane_id(); i < dim; i += kWarpThreads) {
    const float x = room.x[i];
    if (type == KvType::kF32) {
      store(row.codes + 4 * i, x);
    } else {
      store(row.codes + 2 * i, type == KvType::kF16 ? saturated_half(x) : saturated_bf16(x));
    }
  }
}

__device__ __forceinline__ void write_row(KvType type, const Room& room, int dim, const SlotRow& row) {
  switch (type) {
    case KvType::kQ8_0:
      return write_q8_0(room, dim, row);
    case KvType::kQ4_0:
      return write_q4_0(room, dim, row);
    case KvType::kTbq4_0:
      return write_tbq4(room, dim, row);
    case KvType::kTbq3_0:
      return write_tbq3(room, dim, row);
    default:
      return write_elements(type, room, dim, row);
  }
}

__device__ __forceinline__ void load_row(const SideArgs& side, const Room& room, int row, int head,
                                         int heads) {
  const int64_t at = (int64_t{row} * heads + head) * side.dim;
  for (int i = lane_id(); i < side.dim; i += kWarpThreads) {
    room.x[i] = side.rows[at + i] - (side.mean == nullptr ? 0.0F : side.mean[head * side.dim + i]);
  }
  __syncwarp();
}

__global__ void __launch_bounds__(kThreads) write_rows(WriteArgs a) {
  AR_SHARED(float, rows, kWarps* kMostKvDim);
  AR_SHARED(uint8_t, codes, kWarps * kMaxTile);
  const int row = static_cast<int>(blockIdx.y), head = static_cast<int>(blockIdx.x) * kWarps + warp_id();
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || head >= a.heads) {
    return;
  }
  const Room room{rows + warp_id() * kMostKvDim, codes + warp_id() * kMaxTile};
  const SideArgs& side = blockIdx.z == 0 ? a.k : a.v;
  load_row(side, room, row, head, a.heads);
  if (side.rotate) {
    rotate_by_warp(room.x, side.dim, false);
  }
  const int slot = a.slot[row];
  const Global<uint8_t> page = page_at(side.pages, a.page[row], head);
  write_row(side.pages.type, room, side.dim, slot_at(side.pages.planes, page, slot));
  const int copy = a.exact_page == nullptr || side.exact.pages == nullptr ? -1 : a.exact_page[row];
  if (copy < 0) {
    return;
  }
  __syncwarp();
  if (side.rotates_itself) {  // what writing left of the row may be shrunk
    load_row(side, room, row, head, a.heads);
    rotate_by_warp(room.x, side.dim, false);
  }
  write_row(side.exact.type, room, side.dim,
            slot_at(side.exact.planes, page_at(side.exact, copy, head), slot));
}

SideArgs side_args(const KvSide& side, const float* rows) {
  const bool rotates_itself = side.pages.type == KvType::kTbq4_0 || side.pages.type == KvType::kTbq3_0;
  return {on_device(side.pages, side.dim),
          on_device(side.exact, side.dim),
          rows,
          side.mean,
          side.dim,
          side.rotate && !rotates_itself,
          rotates_itself};
}

}  // namespace

base::Result<void> kv_write(Stream stream, Rows rows, const KvWrite& write) {
  AR_CHECK(write.k.dim <= kMostKvDim && write.v.dim <= kMostKvDim && write.k.dim % 16 == 0 &&
               write.v.dim % 16 == 0,
           "a head the kernels have no room for");
  const WriteArgs args{rows.most,
                       rows.used,
                       side_args(write.k, write.k_rows),
                       side_args(write.v, write.v_rows),
                       write.heads,
                       write.page,
                       write.slot,
                       write.exact_page};
  const auto blocks = static_cast<unsigned>((write.heads + kWarps - 1) / kWarps);
  return launch("kv_write", write_rows, dim3{blocks, static_cast<unsigned>(rows.most), 2}, kThreads, 0,
                stream, args);
}

}  // namespace kernels::cuda
