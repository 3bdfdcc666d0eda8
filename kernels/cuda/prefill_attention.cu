// Prefill attention: a block has up to 64 queries of one KV head, rows that follow one another with the query heads that
// share it, and walks over their context by tiles of keys and values that become float16 in shared memory. A warp has 16
// of the queries: scores on tensor cores, a running softmax in registers, values on tensor cores. Tiles begin at fixed
// tokens, and those that a row does not see add exact zeros: its result is that of its context alone.

#include <algorithm>
#include <string>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/kv_loaders.cuh"
#include "kernels/cuda/mma.cuh"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 16 * kThreads / kWarpThreads;  // of a block
constexpr float kLog2OfE = 1.44269504F;                 // weights are powers of two of scores
constexpr float kLift =
    15;  // and times 2 to this: the largest has room in float16, small ones stay above its least

struct PrefillArgs : Context {
  int block_heads, block_rows;  // query heads and rows of a block
  int slices;                   // how many blocks share a KV head's query heads
  Global<float> out;
};

// Heads of up to kDim values.
template <int kDim>
struct Shape {
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;  // of a tile; a page is a whole number of tiles
  static constexpr bool kQueriesStay = kDim <= 128;    // in registers; else in shared memory
  static constexpr int kPitch = kDim + 8;              // halves: eight rows of a fragment share no banks
  static constexpr int kTile = kKeys * kPitch;
  static constexpr int kQueriesAt = kQueriesStay ? 0 : 2 * kTile;
  static constexpr int kHalves = kQueriesStay ? 2 * kTile : 2 * kTile + kQueries * kPitch;
  // The output passes through the same memory, as floats; so does a query on its way.
  static constexpr int kBytes = 2 * kHalves > 4 * kQueries* kDim ? 2 * kHalves : 4 * kQueries* kDim;
  static_assert(kPageTokens % kKeys == 0 && kBytes <= static_cast<int>(kLeastSharedBytes));
  static_assert(!kQueriesStay || kQueries * kPitch <= kTile);
};

// ---- Tiles: [keys x dim] of a page as float16 ----

// A scale that takes no integer of the loader beyond float16.
template <class Loader>
__device__ __forceinline__ uint32_t bounded_scale(uint16_t d) {
  constexpr auto kBound = static_cast<uint32_t>(f16_below(kF16Max / Loader::kMost));
  const uint32_t magnitude = d & 0x7fffU;
  return (magnitude < kBound ? magnitude : kBound) | (d & 0x8000U);
}

// A unit's 32 values (or n) to `to`.
template <class Loader>
__device__ __forceinline__ void unpack_unit(const SlotRow& row, int group, int begin, int n,
                                            Shared<uint16_t> to) {
  const RawUnit raw = Loader::load_unit(row, begin, n);
  uint32_t scale, min = 0;
  if constexpr (Loader::kMins) {
    const float d = half_at(row.scales + 4 * group), m = half_at(row.scales + (4 * group + 2));
    const float room = 0.99F * kF16Max - m, most = (room > 0 ? room : 0) / static_cast<float>(Loader::kMost);
    scale = both_halves(static_cast<uint16_t>(half_of(d < most ? d : most)));
    min = both_halves(load<uint16_t>(row.scales + (4 * group + 2)));
  } else {
    scale = both_halves(static_cast<uint16_t>(bounded_scale<Loader>(load<uint16_t>(row.scales + 2 * group))));
  }
  constexpr int kBias = Loader::kOffset != 0 || Loader::kMins ? Loader::kOffset : 128;
  const auto halves = [&](uint32_t bytes) {
    return scaled_halves<kBias>(kBias == 128 ? bytes ^ 0x80808080U : bytes, scale, min);
  };
  AR_UNROLL
  for (int k = 0; k < 4; k += 2) {
    if (k < n / 8) {
      uint32_t a[2], b[2];
      Loader::unpack(Loader::pick(raw, n, k), n, k, &a[0], &b[0]);
      Loader::unpack(Loader::pick(raw, n, k + 1), n, k + 1, &a[1], &b[1]);
      const uint2 a0 = halves(a[0]), a1 = halves(a[1]), b0 = halves(b[0]), b1 = halves(b[1]);
      store(to + 4 * k, uint4{a0.x, a0.y, a1.x, a1.y});
      store(to + (n / 2 + 4 * k), uint4{b0.x, b0.y, b1.x, b1.y});
    }
  }
}
template <class Element>
__device__ __forceinline__ void copy_unit(const SlotRow& row, int begin, int n, Shared<uint16_t> to) {
  const Global<const uint8_t> from = row.codes + begin * Element::kBytes;
  AR_UNROLL
  for (int i = 0; i < 32; i += 8) {
    if (i < n) {
      const float4 a = load_four<Element>(from + i * Element::kBytes);
      const float4 b = load_four<Element>(from + (i + 4) * Element::kBytes);
      store(to + i,
            uint4{halves_of(a.x, a.y), halves_of(a.z, a.w), halves_of(b.x, b.y), halves_of(b.z, b.w)});
    }
  }
}
template <>
__device__ __forceinline__ void copy_unit<KvF16>(const SlotRow& row, int begin, int n, Shared<uint16_t> to) {
  AR_UNROLL
  for (int i = 0; i < 32; i += 8) {
    if (i < n) {
      store(to + i, load<uint4>(row.codes + 2 * (begin + i)));
    }
  }
}

// The group of the unit that begins at `begin`.
template <class Loader>
__device__ __forceinline__ int group_of(const SlotRow& row, int begin) {
  if constexpr (Loader::kTiles) {  // how many tiles begin up to here, less one
    return __popc(static_cast<int>(row.starts & ((2U << (begin / kUnitValues)) - 1))) - 1;
  } else {
    return begin / kUnitValues;
  }
}

// Slots first .. first + n of a page; zeros for the tile's other keys.
template <int kDim>
__device__ __forceinline__ void load_tile(const Source& from, int dim, int first, int n,
                                          Shared<uint16_t> tile) {
  using Is = Shape<kDim>;
  const int units = (dim + kUnitValues - 1) / kUnitValues;
  with_loader(from.type, [&]<class Loader>() {
    for (int i = static_cast<int>(threadIdx.x); i < Is::kKeys * units; i += kThreads) {
      const int key = i / units, begin = i % units * kUnitValues, values = smaller(kUnitValues, dim - begin);
      const Shared<uint16_t> to = tile + (key * Is::kPitch + begin);
      if (key >= n) {
        for (int at = 0; at < values; at += 8) {
          store(to + at, uint4{0, 0, 0, 0});
        }
        continue;
      }
      const SlotRow row = slot_at(from.planes, from.page, first + key);
      if constexpr (Loader::kElements) {
        copy_unit<Loader>(row, begin, values, to);
      } else {
        unpack_unit<Loader>(row, group_of<Loader>(row, begin), begin, values, to);
      }
    }
  });
}

// ---- A warp's 16 queries ----

// Lane l has rows l / 4 and l / 4 + 8, of scores columns 2 (l % 4) and the next of every eight.
template <int kDim>
struct Running {
  float acc[kDim / 8][4];
  float max[2], sum[2];
};

template <int kDim>
__device__ __forceinline__ void attend_tile(Shared<const uint16_t> queries,
                                            const uint32_t (&kept)[kDim / 16][4], Shared<const uint16_t> keys,
                                            Shared<const uint16_t> values, int dim_k, int dim_v,
                                            const int (&seen)[2], Running<kDim>& r) {
  using Is = Shape<kDim>;
  const int lane = lane_id(), matrix = lane / 8, line = lane % 8, t = lane % 4;
  float s[Is::kKeys / 8][4] = {};
  AR_UNROLL
  for (int k = 0; k < kDim / 16; ++k) {
    if (16 * k >= dim_k) {
      break;
    }
    uint32_t a[4];
    if constexpr (Is::kQueriesStay) {
      AR_UNROLL
      for (int i = 0; i < 4; ++i) {
        a[i] = kept[k][i];
      }
    } else {
      load_matrices<false>(queries + ((matrix % 2 * 8 + line) * Is::kPitch + 16 * k + matrix / 2 * 8), a);
    }
    AR_UNROLL
    for (int n = 0; n < Is::kKeys / 16; ++n) {
      uint32_t b[4];
      load_matrices<false>(keys + ((16 * n + matrix / 2 * 8 + line) * Is::kPitch + 16 * k + matrix % 2 * 8),
                           b);
      mma_f16(s[2 * n], a, {b[0], b[1]});
      mma_f16(s[2 * n + 1], a, {b[2], b[3]});
    }
  }
  AR_UNROLL
  for (int i = 0; i < 2; ++i) {
    float largest = r.max[i];
    AR_UNROLL
    for (int n = 0; n < Is::kKeys / 8; ++n) {
      AR_UNROLL
      for (int j = 0; j < 2; ++j) {
        float& score = s[n][2 * i + j];
        score = 8 * n + 2 * t + j < seen[i] ? score : -__uint_as_float(kInfinityBits);
        largest = score > largest ? score : largest;
      }
    }
    AR_UNROLL
    for (int bits = 1; bits < 4; bits *= 2) {
      const float other = __shfl_xor_sync(kAllLanes, largest, bits);
      largest = other > largest ? other : largest;
    }
    const float from = largest == -__uint_as_float(kInfinityBits) ? 0.0F : largest;  // nothing seen yet
    const float keep = exp2f(r.max[i] - from);
    float sum = 0;
    AR_UNROLL
    for (int n = 0; n < Is::kKeys / 8; ++n) {
      AR_UNROLL
      for (int j = 0; j < 2; ++j) {
        float& weight = s[n][2 * i + j];
        weight = exp2f(weight - (from - kLift));
        sum += weight;
      }
    }
    r.max[i] = largest;
    r.sum[i] = fmaf(r.sum[i], keep, sum);
    AR_UNROLL
    for (int n = 0; n < kDim / 8; ++n) {
      r.acc[n][2 * i] *= keep;
      r.acc[n][2 * i + 1] *= keep;
    }
  }
  AR_UNROLL
  for (int k = 0; k < Is::kKeys / 16; ++k) {
    const uint32_t a[4] = {halves_of(s[2 * k][0], s[2 * k][1]), halves_of(s[2 * k][2], s[2 * k][3]),
                           halves_of(s[2 * k + 1][0], s[2 * k + 1][1]),
                           halves_of(s[2 * k + 1][2], s[2 * k + 1][3])};
    AR_UNROLL
    for (int n = 0; n < kDim / 16; ++n) {
      if (16 * n >= dim_v) {
        break;
      }
      uint32_t b[4];
      load_matrices<true>(values + ((16 * k + matrix % 2 * 8 + line) * Is::kPitch + 16 * n + matrix / 2 * 8),
                          b);
      mma_f16(r.acc[2 * n], a, {b[0], b[1]});
      mma_f16(r.acc[2 * n + 1], a, {b[2], b[3]});
    }
  }
}

// ---- The kernel ----

// Blocks: tiles of rows, the last first: it has the most to do; KV heads x slices.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) attend_rows(PrefillArgs a) {
  using Is = Shape<kDim>;
  AR_DYNAMIC_SHARED(bytes);
  const Shared<uint16_t> keys = pointer_cast<uint16_t>(bytes + 0), values = keys + Is::kTile,
                         queries = keys + Is::kQueriesAt;
  const int used = a.used_rows == nullptr ? a.most_rows : a.used_rows[0];
  const int row0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * a.block_rows;
  const int head = static_cast<int>(blockIdx.y) / a.slices, slice = static_cast<int>(blockIdx.y) % a.slices;
  if (row0 >= used) {
    return;
  }
  const int end = smaller(row0 + a.block_rows, used), dim_k = a.k.dim, dim_v = a.v.dim;
  const int lane = lane_id(), first_query = 16 * warp_id();
  // Query m of the block is head m % block_heads of row m / block_heads.
  const auto row_of = [&](int m) { return row0 + m / a.block_heads; };
  const auto head_of = [&](int m) { return slice * a.block_heads + m % a.block_heads; };
  const auto is_query = [&](int m) { return row_of(m) < end && head_of(m) < a.group; };
  const auto query_at = [&](int m) { return (int64_t{row_of(m)} * a.heads + head) * a.group + head_of(m); };

  // Queries, each by its warp through one row of floats, which lies where values will.
  const Shared<float> x = pointer_cast<float>(values) + warp_id() * kDim;
  for (int m = first_query; m < first_query + 16; ++m) {
    const bool is = is_query(m);
    for (int i = lane; i < dim_k; i += kWarpThreads) {
      x[i] = is ? a.q[query_at(m) * dim_k + i] * a.scale : 0.0F;
    }
    if (a.k.rotated) {
      rotate_by_warp(x, dim_k, false);
    }
    __syncwarp();
    for (int i = 2 * lane; i < kDim; i += 2 * kWarpThreads) {
      const uint32_t pair = i < dim_k ? halves_of(x[i] * kLog2OfE, x[i + 1] * kLog2OfE) : 0;
      store(queries + (m * Is::kPitch + i), pair);
    }
    __syncwarp();
  }
  const Shared<const uint16_t> mine = queries + first_query * Is::kPitch;
  uint32_t kept[kDim / 16][4] = {};
  if constexpr (Is::kQueriesStay) {
    AR_UNROLL
    for (int k = 0; k < kDim / 16; ++k) {
      const int at = (lane / 8 % 2 * 8 + lane % 8) * Is::kPitch + 16 * k + lane / 16 * 8;
      load_matrices<false>(mine + at, kept[k]);
    }
  }
  __syncthreads();

  int visible[2];  // of this lane's two queries
  AR_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int m = first_query + lane / 4 + 8 * i;
    visible[i] = is_query(m) ? a.visible[row_of(m)] : 0;
  }
  Running<kDim> r{};
  r.max[0] = r.max[1] = -__uint_as_float(kInfinityBits);
  for (int row = row0; row < end;) {  // rows of one sequence at a time
    const int seq = a.seq[row], run = row;
    int least = a.visible[row], most = least;
    for (++row; row < end && a.seq[row] == seq; ++row) {
      const int tokens = a.visible[row];
      least = smaller(tokens, least);
      most = tokens > most ? tokens : most;
    }
    for (int begin = 0; begin < most; begin += Is::kKeys) {
      const int page = begin / kPageTokens, n = smaller(Is::kKeys, most - begin);
      const int copy = copy_of(a, seq, page);
      // Rows whose tail the page is in read its copy, the others the page: two passes where there are both.
      const bool some_copy = copy >= 0 && reads_copy(a, least, page);
      const bool some_page = copy < 0 || !reads_copy(a, most, page);
      for (int pass = some_page ? 0 : 1; pass < (some_copy ? 2 : 1); ++pass) {
        int seen[2];
        AR_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int m_row = row_of(first_query + lane / 4 + 8 * i);
          const bool takes =
              m_row >= run && m_row < row && (copy >= 0 && reads_copy(a, visible[i], page)) == (pass == 1);
          seen[i] = takes ? visible[i] - begin : 0;
        }
        const int from = pass == 1 ? copy : -1, first = begin % kPageTokens;
        // Not unrolled: the loaders of all types are compiled once, in half of the time.
        AR_NO_UNROLL
        for (int side = 0; side < 2; ++side) {
          const bool is_key = side == 0;
          const Source source =
              is_key ? source_of(a, a.k, seq, page, from, head) : source_of(a, a.v, seq, page, from, head);
          load_tile<kDim>(source, is_key ? dim_k : dim_v, first, n, is_key ? keys : values);
        }
        __syncthreads();
        if (__any_sync(kAllLanes, seen[0] > 0 || seen[1] > 0)) {
          attend_tile<kDim>(mine, kept, keys, values, dim_k, dim_v, seen, r);
        }
        __syncthreads();
      }
    }
  }

  const Shared<float> result = pointer_cast<float>(bytes + 0) + first_query * kDim;  // a warp's own rows
  AR_UNROLL
  for (int i = 0; i < 2; ++i) {
    float sum = r.sum[i];
    AR_UNROLL
    for (int bits = 1; bits < 4; bits *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, bits);
    }
    const float by = 1.0F / sum;
    AR_UNROLL
    for (int n = 0; n < kDim / 8; ++n) {
      const Shared<float> to = result + ((lane / 4 + 8 * i) * kDim + 8 * n + lane % 4 * 2);
      store(to, float2{r.acc[n][2 * i] * by, r.acc[n][2 * i + 1] * by});
    }
  }
  __syncwarp();
  for (int m = 0; m < 16; ++m) {
    if (!is_query(first_query + m)) {
      continue;
    }
    if (a.v.rotated) {
      rotate_by_warp(result + m * kDim, dim_v, true);
    }
    for (int i = lane; i < dim_v; i += kWarpThreads) {
      const float mean = a.v.mean == nullptr ? 0.0F : a.v.mean[head * dim_v + i];
      a.out[query_at(first_query + m) * dim_v + i] = result[m * kDim + i] + mean;
    }
  }
}

struct Row {
  int dim;
  void (*kernel)(PrefillArgs);
  int bytes;
};
const Row kRows[] = {
    {64, attend_rows<64>, Shape<64>::kBytes},    {96, attend_rows<96>, Shape<96>::kBytes},
    {128, attend_rows<128>, Shape<128>::kBytes}, {192, attend_rows<192>, Shape<192>::kBytes},
    {256, attend_rows<256>, Shape<256>::kBytes},
};

}  // namespace

base::Result<void> attend_prefill(Stream stream, Rows rows, const Attention& attention) {
  PrefillArgs args{};
  static_cast<Context&>(args) = context_of(rows, attention);
  args.block_heads = std::min(args.group, kQueries);
  args.block_rows = kQueries / args.block_heads;
  args.slices = (args.group + args.block_heads - 1) / args.block_heads;
  args.out = attention.out;
  const dim3 blocks{static_cast<unsigned>((rows.most + args.block_rows - 1) / args.block_rows),
                    static_cast<unsigned>(args.heads * args.slices), 1};
  for (const Row& row : kRows) {
    if (args.k.dim <= row.dim && args.v.dim <= row.dim) {
      return launch("attend_prefill", row.kernel, blocks, kThreads, static_cast<size_t>(row.bytes), stream,
                    args);
    }
  }
  return base::Error{
      "heads of " + std::to_string(args.k.dim) + " and " + std::to_string(args.v.dim) + " values",
      "prefill attention on the GPU takes up to " + std::to_string(kMostPrefillDim),
      "keep their layers on the CPU (--n-gpu-layers)"};
}

}  // namespace kernels::cuda
