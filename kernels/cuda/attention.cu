// Decode attention: a block attends with the query heads of one KV head to one chunk of one row's context, so that a
// page is unpacked once; a second kernel joins the chunks. Scores: a thread for each token, unpacking its key 32 values
// at a time. Values: a thread for eight columns of every n-th token, sums in registers.

#include "kernels/cuda/kv.cuh"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMostHeads = 8;  // query heads of a block
constexpr int kMostGroups = kMostKvDim / 32;
constexpr int kUnitValues = 32;
constexpr uint32_t kTiny = 27U << 23;  // as in kernels/scores.h

struct Side {
  PagesOnDevice pages, exact;
  int dim;
  bool rotated;
  Global<const float> mean;
};
struct AttendArgs {
  int most_rows;
  Global<const int> used_rows;
  Side k, v;
  int heads, group, slices;  // query heads of a KV head, and how many blocks share them
  Global<const float> q;
  Global<const int> visible, seq, pages, exact_pages;
  int seq_pages, chunks;
  float scale;
  // Of each row and query head, [chunks]: the largest score, the sum of weights, [dim_v] sums of values.
  Global<float> max, sum, acc;
  Global<float> out;
};

// A block's shared memory: offsets in bytes, by the dimensions and the heads of a block.
struct Layout {
  int query, codes, scales, sums, weights, reduce, bytes;
};
__host__ __device__ constexpr Layout layout_of(int dim_k, int heads) {
  Layout at{};
  at.codes = at.query + heads * dim_k * 4;
  at.scales = at.codes + heads * dim_k;
  at.sums = at.scales + heads * kMostGroups * 4;
  at.weights = at.sums + heads * kMostGroups * 4;
  at.reduce = at.weights + kChunkTokens * heads * 4;
  at.bytes = at.reduce + kThreads * 8 * 4;
  return at;
}
static_assert(layout_of(kMostKvDim, kMostHeads).bytes <= static_cast<int>(kLeastSharedBytes),
              "on SM 8.6, 8.9 and 12.x a block has 99 KiB");

template <int kHeads>
struct Room {
  Shared<float> query;    // [kHeads x dim_k], in the basis of K
  Shared<uint8_t> codes;  // the same rounded
  Shared<float> scales;   // [kHeads x groups of 32 values]: of the block a group is in
  Shared<int> sums;       // of a group's codes
  Shared<float> weights;  // [tokens x kHeads]: scores, then weights
  Shared<float> reduce;
};

__device__ __forceinline__ bool has_codes(KvType type) {
  return type == KvType::kQ8_0 || type == KvType::kQ4_0 || type == KvType::kTbq4_0 || type == KvType::kTbq3_0;
}

// By one warp: query head h into room. Rounds in blocks of 128 values for tiles, of 32 for units, as kernels/scores.cc.
template <int kHeads>
__device__ __forceinline__ void prepare_query(const AttendArgs& a, const Room<kHeads>& room, int h,
                                              Global<const float> q) {
  const int dim = a.k.dim, lane = lane_id();
  const Shared<float> x = room.query + h * dim;
  for (int i = lane; i < dim; i += kWarpThreads) {
    x[i] = q[i] * a.scale;
  }
  if (a.k.rotated) {
    rotate_by_warp(x, dim, false);
  }
  __syncwarp();
  if (!has_codes(a.k.pages.type)) {
    return;
  }
  const bool tiles = a.k.pages.type == KvType::kTbq4_0 || a.k.pages.type == KvType::kTbq3_0;
  const int block = tiles ? kMaxTile : kUnitValues;
  for (int begin = 0; begin < dim; begin += block) {
    const int end = smaller(begin + block, dim);
    uint32_t bits = 0;
    for (int i = begin + lane; i < end; i += kWarpThreads) {
      bits = larger(bits, magnitude_bits(x[i]));
    }
    AR_UNROLL
    for (int by = kWarpThreads / 2; by > 0; by /= 2) {
      bits = larger(bits, __shfl_xor_sync(kAllLanes, bits, by));
    }
    const bool rounded = bits >= kTiny && bits < kInfinityBits;
    const float largest = __uint_as_float(bits);
    const float scale = rounded        ? __fdiv_rn(largest, 127.0F)
                        : bits < kTiny ? 0.0F
                                       : __uint_as_float(0x7fc00000U);
    const float inverse = rounded ? __fdiv_rn(127.0F, largest) : 0.0F;
    for (int unit = begin; unit < end; unit += kUnitValues) {
      const bool mine = unit + lane < end;
      const int code = mine && rounded ? __float2int_rn(x[unit + lane] * inverse) : 0;
      int sum = code;
      AR_UNROLL
      for (int by = kWarpThreads / 2; by > 0; by /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, by);
      }
      if (mine) {
        room.codes[h * dim + unit + lane] = static_cast<uint8_t>(code);
      }
      if (lane == 0) {
        room.scales[h * kMostGroups + unit / kUnitValues] = scale;
        room.sums[h * kMostGroups + unit / kUnitValues] = sum;
      }
    }
  }
}

// Where a token's key or value lies. Fields one by one: a reference to either of two kernel arguments would put them
// all into local memory.
struct Source {
  KvType type;
  Planes planes;
  Global<uint8_t> page;
};
__device__ __forceinline__ Source source_of(const AttendArgs& a, const Side& side, int seq, int page,
                                            int head) {
  const int64_t at = int64_t{seq} * a.seq_pages + page;
  const int copy = a.exact_pages == nullptr || side.exact.pages == nullptr ? -1 : a.exact_pages[at];
  Source from{side.pages.type, side.pages.planes, nullptr};
  if (copy >= 0) {
    from.type = side.exact.type;
    from.planes.codes_row = side.exact.planes.codes_row;
    from.planes.top_at = side.exact.planes.top_at;
    from.planes.top_row = side.exact.planes.top_row;
    from.planes.scales_at = side.exact.planes.scales_at;
    from.planes.scales_row = side.exact.planes.scales_row;
    from.page = page_at(side.exact, copy, head);
  } else {
    from.page = page_at(side.pages, a.pages[at], head);
  }
  return from;
}

// ---- Scores of one token with all of the block's queries ----

template <class Loader, int kHeads>
__device__ __forceinline__ void score_codes(const Room<kHeads>& room, int dim, const SlotRow& row,
                                            float (&scores)[kHeads]) {
  int sums[kHeads] = {};
  int group = 0, group_end = Loader::kTiles ? tile_from(0, dim) : kUnitValues;
  for (int begin = 0; begin < dim; begin += kUnitValues) {
    const int n = smaller(kUnitValues, dim - begin);
    const RawUnit raw = Loader::load_unit(row, begin, n);
    AR_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (k >= n / 8) {
        break;
      }
      uint32_t low, high;
      Loader::unpack(Loader::pick(raw, n, k), n, k, &low, &high);
      AR_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const Shared<uint8_t> q = room.codes + (h * dim + begin + 4 * k);
        sums[h] = __dp4a(static_cast<int>(low), static_cast<int>(load<uint32_t>(q)), sums[h]);
        sums[h] = __dp4a(static_cast<int>(high), static_cast<int>(load<uint32_t>(q + n / 2)), sums[h]);
      }
    }
    if (begin + n < smaller(group_end, dim)) {
      continue;
    }
    const float d = half_at(row.scales + 2 * group);
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const int at = h * kMostGroups + begin / kUnitValues;
      const int sum = Loader::kOffset == 0 ? sums[h] : sums[h] - Loader::kOffset * room.sums[at];
      scores[h] = fmaf(static_cast<float>(sum), d * room.scales[at], scores[h]);
      sums[h] = 0;
    }
    ++group;
    group_end = begin + n + (Loader::kTiles && begin + n < dim ? tile_from(begin + n, dim) : kUnitValues);
  }
}

template <class Element, int kHeads>
__device__ __forceinline__ void score_elements(const Room<kHeads>& room, int dim, const SlotRow& row,
                                               float (&scores)[kHeads]) {
  for (int i = 0; i < dim; i += 4) {
    const float4 v = Element::load_four(row.codes + i * Element::kBytes);
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const float4 q = load<float4>(room.query + (h * dim + i));
      scores[h] = fmaf(v.x, q.x, scores[h]);
      scores[h] = fmaf(v.y, q.y, scores[h]);
      scores[h] = fmaf(v.z, q.z, scores[h]);
      scores[h] = fmaf(v.w, q.w, scores[h]);
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void score_token(const Room<kHeads>& room, int dim, KvType type,
                                            const SlotRow& row, float (&scores)[kHeads]) {
  switch (type) {
    case KvType::kF32:
      return score_elements<KvF32>(room, dim, row, scores);
    case KvType::kF16:
      return score_elements<KvF16>(room, dim, row, scores);
    case KvType::kBf16:
      return score_elements<KvBf16>(room, dim, row, scores);
    case KvType::kQ8_0:
      return score_codes<KvQ8_0>(room, dim, row, scores);
    case KvType::kQ4_0:
      return score_codes<KvQ4_0>(room, dim, row, scores);
    case KvType::kTbq4_0:
      return score_codes<KvTbq4>(room, dim, row, scores);
    case KvType::kTbq3_0:
      return score_codes<KvTbq3>(room, dim, row, scores);
  }
}

// ---- Values ----

// Where a thread's eight columns are: four from `first` and four from `second`.
struct Columns {
  int begin, n, k;  // pair k of the unit of n values at `begin`
  __device__ int first() const { return begin + 4 * k; }
  __device__ int second() const { return begin + n / 2 + 4 * k; }
};
__device__ __forceinline__ Columns columns_of(int octet, int dim) {
  const int begin = octet / 4 * kUnitValues;
  return {begin, smaller(kUnitValues, dim - begin), octet % 4};
}

// Four bytes, kBias too large, as floats: a byte under the exponent of 2^23.
template <int kBias>
__device__ __forceinline__ void to_floats(uint32_t bytes, float* out) {
  constexpr float kTaken = 8388608.0F + kBias;
  AR_UNROLL
  for (int i = 0; i < 4; ++i) {
    out[i] = __uint_as_float(__byte_perm(bytes, 0x4b000000U, 0x7440U + static_cast<uint32_t>(i))) - kTaken;
  }
}

template <class Loader>
struct CodeValues {
  // The eight columns without their scale, which is returned.
  static __device__ float load_eight(const SlotRow& row, const Columns& at, int group, float* v) {
    uint32_t a, b;
    Loader::unpack(Loader::load_pair(row, at.begin, at.n, at.k), at.n, at.k, &a, &b);
    if constexpr (Loader::kOffset == 0) {
      to_floats<128>(a ^ 0x80808080U, v);
      to_floats<128>(b ^ 0x80808080U, v + 4);
    } else {
      to_floats<Loader::kOffset>(a, v);
      to_floats<Loader::kOffset>(b, v + 4);
    }
    return half_at(row.scales + 2 * group);
  }
  static __device__ int group_of(const Columns& at, int dim) {
    if constexpr (!Loader::kTiles) {
      return at.begin / kUnitValues;
    }
    int tile = 0;
    for (int end = tile_from(0, dim); end <= at.begin; end += tile_from(end, dim)) {
      ++tile;
    }
    return tile;
  }
};
template <class Element>
struct ElementValues {
  static __device__ float load_eight(const SlotRow& row, const Columns& at, int /*group*/, float* v) {
    const float4 a = Element::load_four(row.codes + at.first() * Element::kBytes);
    const float4 b = Element::load_four(row.codes + at.second() * Element::kBytes);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return 1.0F;
  }
  static __device__ int group_of(const Columns& /*at*/, int /*dim*/) { return 0; }
};

// Adds tokens first, first + step, ... under n of a page, whose weights stand at `weights`.
template <class Values, int kHeads>
__device__ __forceinline__ void add_tokens(const Source& from, int dim, int first, int step, int n,
                                           Shared<float> weights, const Columns& columns,
                                           float (&acc)[kHeads][8]) {
  const int group = Values::group_of(columns, dim);
  for (int t = first; t < n; t += step) {
    float w[kHeads], largest = 0;
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      w[h] = weights[t * kHeads + h];
      largest = w[h] < largest ? largest : w[h];
    }
    if (largest < kNoWeight) {
      continue;
    }
    float v[8];
    const float d = Values::load_eight(slot_at(from.planes, from.page, t), columns, group, v);
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const float factor = w[h] * d;
      AR_UNROLL
      for (int j = 0; j < 8; ++j) {
        acc[h][j] = fmaf(factor, v[j], acc[h][j]);
      }
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void add_page(const Source& from, int dim, int first, int step, int n,
                                         Shared<float> weights, const Columns& columns,
                                         float (&acc)[kHeads][8]) {
  switch (from.type) {
    case KvType::kF32:
      return add_tokens<ElementValues<KvF32>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kF16:
      return add_tokens<ElementValues<KvF16>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kBf16:
      return add_tokens<ElementValues<KvBf16>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kQ8_0:
      return add_tokens<CodeValues<KvQ8_0>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kQ4_0:
      return add_tokens<CodeValues<KvQ4_0>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kTbq4_0:
      return add_tokens<CodeValues<KvTbq4>>(from, dim, first, step, n, weights, columns, acc);
    case KvType::kTbq3_0:
      return add_tokens<CodeValues<KvTbq3>>(from, dim, first, step, n, weights, columns, acc);
  }
}

// ---- The kernels ----

// Blocks: chunks x (KV heads x slices) x rows.
template <int kHeads>
__global__ void __launch_bounds__(kThreads) attend_chunks(AttendArgs a) {
  AR_DYNAMIC_SHARED(bytes);
  const Layout at = layout_of(a.k.dim, kHeads);
  const Room<kHeads> room{pointer_cast<float>(bytes + at.query),   bytes + at.codes,
                          pointer_cast<float>(bytes + at.scales),  pointer_cast<int>(bytes + at.sums),
                          pointer_cast<float>(bytes + at.weights), pointer_cast<float>(bytes + at.reduce)};
  const int row = static_cast<int>(blockIdx.z), chunk = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y) / a.slices, slice = static_cast<int>(blockIdx.y) % a.slices;
  const int thread = static_cast<int>(threadIdx.x), begin = chunk * kChunkTokens;
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || begin >= a.visible[row]) {
    return;
  }
  const int n = smaller(kChunkTokens, a.visible[row] - begin), seq = a.seq[row];
  // Query head i of this block; beyond the group's last, that one again.
  const auto query_head = [&](int i) { return head * a.group + smaller(slice * kHeads + i, a.group - 1); };
  const auto slot_of = [&](int i) {
    return (int64_t{row} * a.heads * a.group + query_head(i)) * a.chunks + chunk;
  };

  for (int h = warp_id(); h < kHeads; h += kWarps) {
    prepare_query(a, room, h, a.q + (int64_t{row} * a.heads * a.group + query_head(h)) * a.k.dim);
  }
  __syncthreads();

  for (int t = thread; t < n; t += kThreads) {
    const Source from = source_of(a, a.k, seq, (begin + t) / kPageTokens, head);
    float scores[kHeads] = {};
    score_token(room, a.k.dim, from.type, slot_at(from.planes, from.page, t % kPageTokens), scores);
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      room.weights[t * kHeads + h] = scores[h];
    }
  }
  __syncthreads();

  for (int h = warp_id(); h < kHeads; h += kWarps) {
    float largest = -__uint_as_float(kInfinityBits), sum = 0;
    for (int t = lane_id(); t < n; t += kWarpThreads) {
      const float score = room.weights[t * kHeads + h];
      largest = score > largest ? score : largest;
    }
    largest = warp_max(largest);
    for (int t = lane_id(); t < n; t += kWarpThreads) {
      const float weight = expf(room.weights[t * kHeads + h] - largest);
      room.weights[t * kHeads + h] = weight;
      sum += weight;
    }
    sum = warp_sum(sum);
    if (lane_id() == 0 && slice * kHeads + h < a.group) {
      a.max[slot_of(h)] = largest;
      a.sum[slot_of(h)] = sum;
    }
  }
  __syncthreads();

  const int dim = a.v.dim, octets = dim / 8,
            streams = kThreads / octets;  // tokens that are added side by side
  const int stream = thread / octets;
  const Columns columns = columns_of(thread % octets, dim);
  float acc[kHeads][8] = {};
  for (int first = 0; first < n && stream < streams; first += kPageTokens) {
    const Source from = source_of(a, a.v, seq, (begin + first) / kPageTokens, head);
    add_page(from, dim, stream, streams, smaller(kPageTokens, n - first), room.weights + first * kHeads,
             columns, acc);
  }
  AR_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (stream < streams) {
      AR_UNROLL
      for (int j = 0; j < 4; ++j) {
        room.reduce[stream * dim + columns.first() + j] = acc[h][j];
        room.reduce[stream * dim + columns.second() + j] = acc[h][4 + j];
      }
    }
    __syncthreads();
    for (int i = thread; i < dim && slice * kHeads + h < a.group; i += kThreads) {
      float sum = 0;
      for (int s = 0; s < streams; ++s) {
        sum += room.reduce[s * dim + i];
      }
      a.acc[slot_of(h) * dim + i] = sum;
    }
    __syncthreads();
  }
}

// Joins a row's chunks for one query head, in the order of kernels that sum them: threads [streams x dim], each stream
// every n-th chunk. Blocks: query heads x rows.
__global__ void __launch_bounds__(kThreads) join_chunks(AttendArgs a) {
  AR_SHARED(float, scratch, kWarps);
  AR_SHARED(float, largest_of, kWarps);
  AR_SHARED(float, sums, kThreads * 4);
  const int row = static_cast<int>(blockIdx.y), query_head = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x), dim = a.v.dim;
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0])) {
    return;
  }
  const int chunks = (a.visible[row] + kChunkTokens - 1) / kChunkTokens;
  const int64_t head_at = int64_t{row} * a.heads * a.group + query_head, first = head_at * a.chunks;
  float largest = -__uint_as_float(kInfinityBits);
  for (int i = thread; i < chunks; i += kThreads) {
    const float max = a.max[first + i];
    largest = max > largest ? max : largest;
  }
  largest = warp_max(largest);
  if (lane_id() == 0) {
    largest_of[warp_id()] = largest;
  }
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) {
    const float max = largest_of[i];
    largest = max > largest ? max : largest;
  }
  float total = 0;
  for (int i = thread; i < chunks; i += kThreads) {
    total += a.sum[first + i] * expf(a.max[first + i] - largest);
  }
  total = block_sum(total, scratch);

  const int fours = dim / 4, streams = kThreads / fours, stream = thread / fours, column = thread % fours * 4;
  float4 sum{0, 0, 0, 0};
  for (int i = stream; i < chunks && stream < streams; i += streams) {
    const float weight = expf(a.max[first + i] - largest);
    const float4 v = load<float4>(a.acc + ((first + i) * dim + column));
    sum.x = fmaf(weight, v.x, sum.x);
    sum.y = fmaf(weight, v.y, sum.y);
    sum.z = fmaf(weight, v.z, sum.z);
    sum.w = fmaf(weight, v.w, sum.w);
  }
  if (stream < streams) {
    store(sums + (stream * dim + column), sum);
  }
  __syncthreads();
  for (int i = thread; i < dim; i += kThreads) {  // a column of every stream by one thread
    float value = 0;
    for (int s = 0; s < streams; ++s) {
      value += sums[s * dim + i];
    }
    sums[i] = value / total;
  }
  __syncthreads();
  if (warp_id() != 0) {
    return;
  }
  if (a.v.rotated) {
    rotate_by_warp(sums + 0, dim, true);
  }
  __syncwarp();
  for (int i = lane_id(); i < dim; i += kWarpThreads) {
    const float mean = a.v.mean == nullptr ? 0.0F : a.v.mean[query_head / a.group * dim + i];
    a.out[head_at * dim + i] = sums[i] + mean;
  }
}

Side side_of(const KvSide& side) {
  return {on_device(side.pages, side.dim), on_device(side.exact, side.dim), side.dim, side.rotated(),
          side.mean};
}

int chunks_of(int tokens) {
  return (tokens + kChunkTokens - 1) / kChunkTokens;
}

template <int kHeads>
base::Result<void> attend_with(Stream stream, AttendArgs args) {
  args.slices = (args.group + kHeads - 1) / kHeads;
  const dim3 blocks{static_cast<unsigned>(args.chunks), static_cast<unsigned>(args.heads * args.slices),
                    static_cast<unsigned>(args.most_rows)};
  const auto shared = static_cast<size_t>(layout_of(args.k.dim, kHeads).bytes);
  return launch("attend", attend_chunks<kHeads>, blocks, kThreads, shared, stream, args);
}

}  // namespace

size_t partial_floats(int rows, int heads, int group, int dim_v, int most_tokens) {
  return static_cast<size_t>(rows) * static_cast<size_t>(heads) * static_cast<size_t>(group) *
         static_cast<size_t>(chunks_of(most_tokens)) * static_cast<size_t>(dim_v + 2);
}

base::Result<void> attend(Stream stream, Rows rows, const Attention& attention, int most_tokens) {
  const KvSide &k = attention.k, &v = attention.v;
  AR_CHECK(k.dim <= kMostKvDim && v.dim <= kMostKvDim && k.dim % 16 == 0 && v.dim % 16 == 0,
           "a head the kernels have no room for");
  AttendArgs args{};
  args.most_rows = rows.most, args.used_rows = rows.used;
  args.k = side_of(k), args.v = side_of(v);
  args.heads = attention.heads, args.group = attention.group;
  args.q = attention.q, args.visible = attention.visible, args.seq = attention.seq;
  args.pages = attention.pages, args.exact_pages = attention.exact_pages,
  args.seq_pages = attention.seq_pages;
  args.chunks = chunks_of(most_tokens);
  args.scale = 1 / sqrtf(static_cast<float>(k.dim));
  // The sums of values first: they are read four at a time.
  const size_t slots = partial_floats(rows.most, args.heads, args.group, 0, most_tokens) / 2;
  args.acc = attention.partial;
  args.max = attention.partial + slots * static_cast<size_t>(v.dim);
  args.sum = attention.partial + slots * static_cast<size_t>(v.dim) + slots;
  args.out = attention.out;
  const int group = attention.group;
  base::Result<void> done = group == 1   ? attend_with<1>(stream, args)
                            : group == 2 ? attend_with<2>(stream, args)
                            : group <= 4 ? attend_with<4>(stream, args)
                            : group <= 6 ? attend_with<6>(stream, args)
                                         : attend_with<8>(stream, args);
  if (!done.ok()) {
    return done;
  }
  const dim3 blocks{static_cast<unsigned>(args.heads * args.group), static_cast<unsigned>(rows.most), 1};
  return launch("attend: join", join_chunks, blocks, kThreads, 0, stream, args);
}

}  // namespace kernels::cuda
