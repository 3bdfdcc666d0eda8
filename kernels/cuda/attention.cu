// Decode attention: a block attends with the query heads of one KV head to one chunk of one row's context, so that a
// page is unpacked once; a second kernel joins the chunks. Scores: a thread for each token, unpacking its key 32 values
// at a time. Values: a thread for eight columns of every n-th token, sums in registers.

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/kv_loaders.cuh"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMostHeads = 8;  // query heads of a block
constexpr int kMostGroups = kMostKvDim / 32;
constexpr uint32_t kTiny = 27U << 23;  // as in kernels/scores.h

struct AttendArgs : Context {
  int slices, chunks;  // how many blocks share a KV head's query heads; of a row
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
  Shared<float> weights;  // [kHeads x kChunkTokens]: scores, then weights
  Shared<float> reduce;
};

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
  const bool tiles = rotates_itself(a.k.pages.type);
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

// ---- Scores of one token with all of the block's queries ----

__device__ __forceinline__ int dot_16(const uint32_t (&codes)[4], const uint4& q, int sum) {
  sum = __dp4a(static_cast<int>(codes[0]), static_cast<int>(q.x), sum);
  sum = __dp4a(static_cast<int>(codes[1]), static_cast<int>(q.y), sum);
  sum = __dp4a(static_cast<int>(codes[2]), static_cast<int>(q.z), sum);
  return __dp4a(static_cast<int>(codes[3]), static_cast<int>(q.w), sum);
}

template <class Loader, int kHeads>
__device__ __forceinline__ void score_codes(const Room<kHeads>& room, int dim, const SlotRow& row,
                                            float (&scores)[kHeads]) {
  int sums[kHeads] = {};
  int group = 0, group_end = Loader::kTiles ? tile_from(0, dim) : kUnitValues;
  RawUnit next = Loader::load_unit(row, 0, smaller(kUnitValues, dim));
  for (int begin = 0; begin < dim; begin += kUnitValues) {
    const int n = smaller(kUnitValues, dim - begin), left = dim - begin - n;
    const RawUnit raw = next;
    if (left > 0) {  // on its way while this one is multiplied
      next = Loader::load_unit(row, begin + n, smaller(kUnitValues, left));
    }
    uint32_t low[4], high[4];
    AR_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (k < n / 8) {
        Loader::unpack(Loader::pick(raw, n, k), n, k, &low[k], &high[k]);
      }
    }
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const Shared<uint8_t> q = room.codes + (h * dim + begin);
      const uint4 first = load<uint4>(q);
      if (n == 32) {
        sums[h] = dot_16(low, first, dot_16(high, load<uint4>(q + 16), sums[h]));
      } else {
        const uint32_t codes[4] = {low[0], low[1], high[0], high[1]};
        sums[h] = dot_16(codes, first, sums[h]);
      }
    }
    if (begin + n < smaller(group_end, dim)) {
      continue;
    }
    const float d = half_at(row.scales + (Loader::kMins ? 4 : 2) * group);
    const float m = Loader::kMins ? half_at(row.scales + (4 * group + 2)) : 0.0F;
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const int at = h * kMostGroups + begin / kUnitValues;
      const float da = room.scales[at];
      const int sum = Loader::kOffset == 0 ? sums[h] : sums[h] - Loader::kOffset * room.sums[at];
      scores[h] = fmaf(static_cast<float>(sum), d * da, scores[h]);
      if constexpr (Loader::kMins) {
        scores[h] = fmaf(static_cast<float>(static_cast<int>(room.sums[at])), m * da, scores[h]);
      }
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
    const float4 v = load_four<Element>(row.codes + i * Element::kBytes);
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
  with_loader(type, [&]<class Loader>() {
    if constexpr (Loader::kElements) {
      score_elements<Loader>(room, dim, row, scores);
    } else {
      score_codes<Loader>(room, dim, row, scores);
    }
  });
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

// A token's eight columns: `read` brings the bytes, `unpack` makes them floats less their scale, which it returns.
template <class Loader>
struct CodeValues {
  struct Raw {
    RawPair pair;
    uint32_t scales;
  };
  static __device__ __forceinline__ Raw read(const SlotRow& row, const Columns& at, int group) {
    Raw raw{Loader::load_pair(row, at.begin, at.n, at.k), 0};
    if constexpr (Loader::kMins) {
      raw.scales = load<uint32_t>(row.scales + 4 * group);
    } else {
      raw.scales = load<uint16_t>(row.scales + 2 * group);
    }
    return raw;
  }
  static __device__ __forceinline__ float unpack(const Raw& raw, const Columns& at, float (&v)[8]) {
    uint32_t a, b;
    Loader::unpack(raw.pair, at.n, at.k, &a, &b);
    const float d = half_to_float(static_cast<uint16_t>(raw.scales));
    if constexpr (Loader::kMins) {
      to_floats<0>(a, v);
      to_floats<0>(b, v + 4);
      const float m = half_to_float(static_cast<uint16_t>(raw.scales >> 16));
      AR_UNROLL
      for (int j = 0; j < 8; ++j) {
        v[j] = fmaf(d, v[j], m);
      }
      return 1.0F;
    } else if constexpr (Loader::kOffset == 0) {
      to_floats<128>(a ^ 0x80808080U, v);
      to_floats<128>(b ^ 0x80808080U, v + 4);
    } else {
      to_floats<Loader::kOffset>(a, v);
      to_floats<Loader::kOffset>(b, v + 4);
    }
    return d;
  }
  static __device__ __forceinline__ int group_of(const Columns& at, int dim) {
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
  struct Raw {
    typename Element::Four a, b;
  };
  static __device__ __forceinline__ Raw read(const SlotRow& row, const Columns& at, int /*group*/) {
    return {load<typename Element::Four>(row.codes + at.first() * Element::kBytes),
            load<typename Element::Four>(row.codes + at.second() * Element::kBytes)};
  }
  static __device__ __forceinline__ float unpack(const Raw& raw, const Columns& /*at*/, float (&v)[8]) {
    const float4 a = Element::floats(raw.a), b = Element::floats(raw.b);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return 1.0F;
  }
  static __device__ __forceinline__ int group_of(const Columns& /*at*/, int /*dim*/) { return 0; }
};

// Adds of a page's first n tokens kBatch from kBatch * stream on, and so on every kBatch * streams: as many rows are on
// their way at a time as there are registers for. `weights`: of the page's tokens, [kHeads] kChunkTokens apart.
template <class Values, int kHeads>
__device__ __forceinline__ void add_tokens(const Source& from, int dim, int stream, int streams, int n,
                                           Shared<float> weights, const Columns& columns,
                                           float (&acc)[kHeads][8]) {
  constexpr int kWords = static_cast<int>(sizeof(typename Values::Raw)) / 4;
  constexpr int kBatch = kWords * kHeads > 32 ? 2 : 4;
  const int group = Values::group_of(columns, dim);
  for (int first = kBatch * stream; first < n; first += kBatch * streams) {
    float largest = 0;
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      AR_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const float w = first + i < n ? weights[h * kChunkTokens + first + i] : 0.0F;
        largest = w < largest ? largest : w;
      }
    }
    if (largest < kNoWeight) {
      continue;
    }
    typename Values::Raw raw[kBatch];
    AR_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      raw[i] = Values::read(slot_at(from.planes, from.page, smaller(first + i, n - 1)), columns, group);
    }
    AR_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= n) {
        break;
      }
      float v[8];
      const float d = Values::unpack(raw[i], columns, v);
      AR_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const float factor = weights[h * kChunkTokens + first + i] * d;
        AR_UNROLL
        for (int j = 0; j < 8; ++j) {
          acc[h][j] = fmaf(factor, v[j], acc[h][j]);
        }
      }
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void add_page(const Source& from, int dim, int stream, int streams, int n,
                                         Shared<float> weights, const Columns& columns,
                                         float (&acc)[kHeads][8]) {
  with_loader(from.type, [&]<class Loader>() {
    if constexpr (Loader::kElements) {
      add_tokens<ElementValues<Loader>>(from, dim, stream, streams, n, weights, columns, acc);
    } else {
      add_tokens<CodeValues<Loader>>(from, dim, stream, streams, n, weights, columns, acc);
    }
  });
}

// ---- The kernels ----

// Blocks: chunks x (KV heads x slices) x rows.
template <int kHeads>
__global__ void __launch_bounds__(kThreads, kHeads > 6 ? 2 : 3) attend_chunks(AttendArgs a) {
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
  const int visible = a.visible[row];
  const auto copy_for = [&](int page) { return reads_copy(a, visible, page) ? copy_of(a, seq, page) : -1; };
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
    const int page = (begin + t) / kPageTokens;
    const Source from = source_of(a, a.k, seq, page, copy_for(page), head);
    float scores[kHeads] = {};
    score_token(room, a.k.dim, from.type, slot_at(from.planes, from.page, t % kPageTokens), scores);
    AR_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      room.weights[h * kChunkTokens + t] = scores[h];
    }
  }
  __syncthreads();

  for (int h = warp_id(); h < kHeads; h += kWarps) {
    float largest = -__uint_as_float(kInfinityBits), sum = 0;
    for (int t = lane_id(); t < n; t += kWarpThreads) {
      const float score = room.weights[h * kChunkTokens + t];
      largest = score > largest ? score : largest;
    }
    largest = warp_max(largest);
    for (int t = lane_id(); t < n; t += kWarpThreads) {
      const float weight = expf(room.weights[h * kChunkTokens + t] - largest);
      room.weights[h * kChunkTokens + t] = weight;
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
    const int page = (begin + first) / kPageTokens;
    const Source from = source_of(a, a.v, seq, page, copy_for(page), head);
    add_page(from, dim, stream, streams, smaller(kPageTokens, n - first), room.weights + first, columns, acc);
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

Side side_of(const KvSide& side) {
  return {on_device(side.pages, side.dim), on_device(side.exact, side.dim), side.dim, side.rotated(),
          side.mean};
}

}  // namespace

Context context_of(Rows rows, const Attention& attention) {
  const KvSide &k = attention.k, &v = attention.v;
  AR_CHECK(k.dim <= kMostKvDim && v.dim <= kMostKvDim && k.dim % 16 == 0 && v.dim % 16 == 0,
           "a head the kernels have no room for");
  Context context{};
  context.most_rows = rows.most, context.used_rows = rows.used;
  context.k = side_of(k), context.v = side_of(v);
  context.heads = attention.heads, context.group = attention.group;
  context.q = attention.q, context.visible = attention.visible, context.seq = attention.seq;
  context.pages = attention.pages, context.exact_pages = attention.exact_pages;
  context.seq_pages = attention.seq_pages;
  context.sink_pages = attention.sink_pages, context.tail = attention.tail;
  context.scale = 1 / sqrtf(static_cast<float>(k.dim));
  return context;
}

size_t partial_floats(int rows, int heads, int group, int dim_v, int most_tokens) {
  return static_cast<size_t>(rows) * static_cast<size_t>(heads) * static_cast<size_t>(group) *
         static_cast<size_t>(chunks_of(most_tokens)) * static_cast<size_t>(dim_v + 2);
}

base::Result<void> attend(Stream stream, Rows rows, const Attention& attention, int most_tokens) {
  const KvSide& v = attention.v;
  AttendArgs args{};
  static_cast<Context&>(args) = context_of(rows, attention);
  args.chunks = chunks_of(most_tokens);
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
