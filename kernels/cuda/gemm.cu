#include "kernels/cuda/gemm.h"

#include <algorithm>
#include <string>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/points.cuh"
#include "kernels/cuda/weights.cuh"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kHalvesThreads = 256;

struct HalvesArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const float> x, up;
  int n;
  Global<uint16_t> out;
};

// Eight values a thread.
__global__ void __launch_bounds__(kHalvesThreads) halve_rows(HalvesArgs a) {
  const int row = static_cast<int>(blockIdx.y);
  const int i = 8 * static_cast<int>(blockIdx.x * kHalvesThreads + threadIdx.x);
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || i >= a.n) {
    return;
  }
  const int64_t at = int64_t{row} * a.n + i;
  float v[8];
  load_eight(a.x, a.up, at, v);
  store(a.out + at,
        uint4{halves_of(v[0], v[1]), halves_of(v[2], v[3]), halves_of(v[4], v[5]), halves_of(v[6], v[7])});
}

// ---- The product: blocks of kTileRows weight rows x kTileTokens; a warp has 16 of the rows and all tokens ----

constexpr int kThreads = 128;
constexpr int kTileRows = 16 * kThreads / kWarpThreads, kTileTokens = 64;
static_assert(kThreads == 2 * kTileRows);
constexpr int kStep = 128;  // columns at a time: four units of every format lie next to each other there
constexpr int kPitch =
    kStep + 8;  // halves from a row of a tile to the next: no two of a fragment's rows share banks
static_assert((kTileRows + kTileTokens) * kPitch * sizeof(uint16_t) + kTileTokens * sizeof(int) <=
              (size_t{48} << 10));  // more must be asked for

struct GemmArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const uint8_t> data;
  int64_t n_rows;
  int cols;
  int64_t row_bytes;
  // Which rows the tiles of tokens have, as group_rows left it; nullptr: 64 that follow one another.
  Global<const int> groups;
  int most_tiles;
  int64_t expert_bytes;
  int rows_per_x;
  Global<const uint16_t> x;
  Global<const float> bias;
  Global<float> y;
};

// ---- Rows by expert ----

constexpr int kGroupThreads = 512;
constexpr int kMostExperts = 1024;
constexpr int kTileInts = 3;  // of a tile: its expert, where in the order its rows begin, how many they are

struct GroupArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const int> expert;
  int n_expert, most_tiles;
  Global<int> groups;
};

int most_tiles(int rows, int n_expert) {
  return rows / kTileTokens + std::min(rows, n_expert);
}

// One block. What order an expert's rows come in is chance: no result depends on it.
__global__ void __launch_bounds__(kGroupThreads) sort_rows(GroupArgs a) {
  AR_SHARED(int, counts, kMostExperts);
  AR_SHARED(int, next, kMostExperts);   // in the order; then where the expert's next row goes
  AR_SHARED(int, tiles, kMostExperts);  // the expert's first
  const int used = a.used_rows == nullptr ? a.most_rows : a.used_rows[0];
  const int thread = static_cast<int>(threadIdx.x);
  for (int e = thread; e < a.n_expert; e += kGroupThreads) {
    counts[e] = 0;
  }
  __syncthreads();
  for (int i = thread; i < used; i += kGroupThreads) {
    atomicAdd(counts + a.expert[i], 1);
  }
  __syncthreads();
  if (thread == 0) {
    int rows = 0, tile = 0;
    for (int e = 0; e < a.n_expert; ++e) {
      next[e] = rows;
      tiles[e] = tile;
      const int n = counts[e];
      rows += n;
      tile += (n + kTileTokens - 1) / kTileTokens;
    }
    a.groups[0] = tile;
  }
  __syncthreads();
  for (int e = thread; e < a.n_expert; e += kGroupThreads) {
    const int n = counts[e], begin = next[e];
    for (int at = 0; at < n; at += kTileTokens) {
      const Global<int> entry = a.groups + (1 + (tiles[e] + at / kTileTokens) * kTileInts);
      entry[0] = e;
      entry[1] = begin + at;
      entry[2] = smaller(n - at, kTileTokens);
    }
  }
  __syncthreads();
  const Global<int> order = a.groups + (1 + a.most_tiles * kTileInts);
  for (int i = thread; i < used; i += kGroupThreads) {
    order[atomicAdd(next + a.expert[i], 1)] = i;
  }
}

// 32 weights from unit `unit` of a row on, as float16; at: where in the row the two halves of 16 begin.
template <class Loader>
struct UnitHalves {
  static __device__ void load_unit(Global<const uint8_t> row, int unit, uint32_t (&out)[16], int (&at)[2]) {
    const int block = unit / Loader::kUnits;
    const Unit u = Loader::load(row + int64_t{block} * Loader::kBytes, unit % Loader::kUnits);
    AR_UNROLL
    for (int h = 0; h < 2; ++h) {
      at[h] = block * Loader::kValues + u.at[h];
      const float d = u.d * static_cast<float>(u.scale[h]), min = u.dmin * static_cast<float>(u.min[h]);
      AR_UNROLL
      for (int i = 0; i < 4; ++i) {
        float v[4];
        to_floats<128 + Loader::kOffset>(u.codes[4 * h + i] ^ 0x80808080U, v);
        AR_UNROLL
        for (int j = 0; j < 4; ++j) {
          v[j] = d * v[j] - min;
        }
        out[8 * h + 2 * i] = halves_of(v[0], v[1]);
        out[8 * h + 2 * i + 1] = halves_of(v[2], v[3]);
      }
    }
  }
};
template <class Loader>
struct PointHalves {
  static __device__ void load_unit(Global<const uint8_t> row, int unit, uint32_t (&out)[16], int (&at)[2]) {
    constexpr int kUnits = Loader::kValues / 32;
    const Global<const uint8_t> block = row + int64_t{unit / kUnits} * Loader::kBytes;
    at[0] = 32 * unit;
    at[1] = at[0] + 16;
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Eight eight = Loader::load(block, unit % kUnits * 4 + i);
      AR_UNROLL
      for (int j = 0; j < 2; ++j) {
        float v[4];
        to_floats<128>(eight.codes[j] ^ 0x80808080U, v);
        out[4 * i + 2 * j] = halves_of(eight.factor * v[0], eight.factor * v[1]);
        out[4 * i + 2 * j + 1] = halves_of(eight.factor * v[2], eight.factor * v[3]);
      }
    }
  }
};
template <class Stored, bool kBrain = false>
struct ElementHalves {
  static __device__ float value(Stored x) {
    if constexpr (sizeof(Stored) == 4) {
      return x;
    } else {
      return kBrain ? __uint_as_float(uint32_t{x} << 16) : half_to_float(x);
    }
  }
  static __device__ void load_unit(Global<const uint8_t> row, int unit, uint32_t (&out)[16], int (&at)[2]) {
    at[0] = 32 * unit;
    at[1] = at[0] + 16;
    constexpr int kVector = 16 / static_cast<int>(sizeof(Stored));
    AR_UNROLL
    for (int i = 0; i < 32; i += kVector) {
      const uint4 bits = load<uint4>(row + (32 * unit + i) * static_cast<int>(sizeof(Stored)));
      Stored v[kVector];
      memcpy(v, &bits, sizeof bits);
      AR_UNROLL
      for (int j = 0; j < kVector; j += 2) {
        out[(i + j) / 2] = halves_of(value(v[j]), value(v[j + 1]));
      }
    }
  }
};

template <class Loader>
__global__ void __launch_bounds__(kThreads, 2) multiply_tiles(GemmArgs a) {
  AR_SHARED(uint16_t, weights, kTileRows * kPitch);
  AR_SHARED(uint16_t, tokens, kTileTokens * kPitch);
  AR_SHARED(int, row_of, kTileTokens);  // of y; -1: the tile has no such token
  const int used = a.used_rows == nullptr ? a.most_rows : a.used_rows[0];
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id();
  const int64_t row0 = int64_t{blockIdx.x} * kTileRows;
  const int tile = static_cast<int>(blockIdx.y);
  Global<const uint8_t> data = a.data;
  int n_tokens = used - tile * kTileTokens, first = tile * kTileTokens;
  if (!(a.groups == nullptr)) {
    const Global<const int> entry = a.groups + (1 + tile * kTileInts);
    n_tokens = tile < a.groups[0] ? entry[2] : 0;
    if (n_tokens > 0) {
      data += entry[0] * a.expert_bytes;
      first = 1 + a.most_tiles * kTileInts + entry[1];
    }
  }
  if (n_tokens <= 0) {
    return;
  }
  n_tokens = smaller(n_tokens, kTileTokens);
  for (int i = thread; i < kTileTokens; i += kThreads) {
    row_of[i] = i >= n_tokens ? -1 : a.groups == nullptr ? first + i : a.groups[first + i];
  }
  __syncthreads();
  float c[kTileTokens / 8][4] = {};
  const int matrix = lane / 8, line = lane % 8;
  const int64_t step_bytes = kStep * a.row_bytes / a.cols;
  for (int begin = 0; begin < a.cols; begin += kStep) {
    // Units of a step: 4; those past the last column are zeros, rows past the last are the last again.
    for (int i = thread; i < kTileRows * 4; i += kThreads) {
      const int row = i / 4, unit = begin / 32 + i % 4;
      uint32_t halves[16] = {};
      int at[2] = {32 * unit, 32 * unit + 16};
      if (32 * unit < a.cols) {
        const int64_t from = row0 + row < a.n_rows ? row0 + row : a.n_rows - 1;
        Loader::load_unit(data + from * a.row_bytes, unit, halves, at);
      }
      AR_UNROLL
      for (int h = 0; h < 2; ++h) {
        const Shared<uint16_t> to = weights + (row * kPitch + (at[h] - begin));
        const uint32_t* from = halves + 8 * h;
        store(to, uint4{from[0], from[1], from[2], from[3]});
        store(to + 8, uint4{from[4], from[5], from[6], from[7]});
      }
    }
    for (int i = thread; i < kTileTokens * (kStep / 8); i += kThreads) {
      const int token = i / (kStep / 8), at = i % (kStep / 8) * 8, row = row_of[token];
      uint4 v{0, 0, 0, 0};
      if (row >= 0 && begin + at < a.cols) {
        v = load<uint4>(a.x + (int64_t{row / a.rows_per_x} * a.cols + (begin + at)));
      }
      store(tokens + (token * kPitch + at), v);
    }
    if (begin + kStep < a.cols) {  // the next step's weights, two lines of a row, come nearer meanwhile
      const int64_t row = row0 + thread / 2 < a.n_rows ? row0 + thread / 2 : a.n_rows - 1;
      const int64_t at = (begin / kStep + 1) * step_bytes + thread % 2 * 64;
      prefetch(data + (row * a.row_bytes + (at < a.row_bytes ? at : a.row_bytes - 1)));
    }
    __syncthreads();
    AR_UNROLL
    for (int k = 0; k < kStep; k += 16) {
      uint32_t fa[4];
      load_matrices<false>(weights + ((16 * warp_id() + matrix % 2 * 8 + line) * kPitch + k + matrix / 2 * 8),
                           fa);
      AR_UNROLL
      for (int n = 0; n < kTileTokens / 16; ++n) {
        if (16 * n >= n_tokens) {
          break;
        }
        uint32_t fb[4];
        load_matrices<false>(tokens + ((16 * n + matrix / 2 * 8 + line) * kPitch + k + matrix % 2 * 8), fb);
        mma_f16(c[2 * n], fa, {fb[0], fb[1]});
        mma_f16(c[2 * n + 1], fa, {fb[2], fb[3]});
      }
    }
    __syncthreads();
  }
  AR_UNROLL
  for (int n = 0; n < kTileTokens / 8; ++n) {
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t row = row0 + 16 * warp_id() + lane / 4 + i / 2 * 8;
      const int token = row_of[8 * n + lane % 4 * 2 + i % 2];
      if (row < a.n_rows && token >= 0) {
        a.y[token * a.n_rows + row] = c[n][i] + (a.bias == nullptr ? 0.0F : a.bias[row]);
      }
    }
  }
}

struct Row {
  uint32_t ggml_type;
  const char* name;
  void (*kernel)(GemmArgs);
};
// clang-format off
const Row kRows[] = {
    {0,  "gemm f32",    multiply_tiles<ElementHalves<float>>},
    {1,  "gemm f16",    multiply_tiles<ElementHalves<uint16_t>>},
    {2,  "gemm q4_0",   multiply_tiles<UnitHalves<Q4_0>>},
    {3,  "gemm q4_1",   multiply_tiles<UnitHalves<Q4_1>>},
    {6,  "gemm q5_0",   multiply_tiles<UnitHalves<Q5_0>>},
    {7,  "gemm q5_1",   multiply_tiles<UnitHalves<Q5_1>>},
    {8,  "gemm q8_0",   multiply_tiles<UnitHalves<Q8_0>>},
    {10, "gemm q2_k",   multiply_tiles<UnitHalves<Q2K>>},
    {11, "gemm q3_k",   multiply_tiles<UnitHalves<Q3K>>},
    {12, "gemm q4_k",   multiply_tiles<UnitHalves<Q4K>>},
    {13, "gemm q5_k",   multiply_tiles<UnitHalves<Q5K>>},
    {14, "gemm q6_k",   multiply_tiles<UnitHalves<Q6K>>},
    {20, "gemm iq4_nl", multiply_tiles<UnitHalves<IQ4NL>>},
    {23, "gemm iq4_xs", multiply_tiles<UnitHalves<IQ4XS>>},
    {30, "gemm bf16",   multiply_tiles<ElementHalves<uint16_t, true>>},
    {16, "gemm iq2_xxs", multiply_tiles<PointHalves<IQ2XXS>>},
    {17, "gemm iq2_xs",  multiply_tiles<PointHalves<IQ2XS>>},
    {18, "gemm iq3_xxs", multiply_tiles<PointHalves<IQ3XXS>>},
    {21, "gemm iq3_s",   multiply_tiles<PointHalves<IQ3S>>},
    {22, "gemm iq2_s",   multiply_tiles<PointHalves<IQ2S>>},
    {39, "gemm mxfp4",   multiply_tiles<PointHalves<MXFP4>>},
};
// clang-format on

}  // namespace

base::Result<void> to_halves(Stream stream, Rows rows, const float* x, const float* up, int n,
                             uint16_t* out) {
  AR_CHECK(n % 8 == 0, "eight values at a time");
  const HalvesArgs args{rows.most, rows.used, x, up, n, out};
  const auto blocks = static_cast<unsigned>((n / 8 + kHalvesThreads - 1) / kHalvesThreads);
  return launch("to_halves", halve_rows, dim3{blocks, static_cast<unsigned>(rows.most), 1}, kHalvesThreads, 0,
                stream, args);
}

base::Result<void> gemm(Stream stream, Rows rows, const Gemm& product) {
  AR_CHECK(product.cols % 32 == 0, "whole units");
  const Row* row = nullptr;
  for (const Row& candidate : kRows) {
    row = candidate.ggml_type == product.ggml_type ? &candidate : row;
  }
  if (row == nullptr) {
    return base::Error{"weights of ggml type " + std::to_string(product.ggml_type),
                       "the GPU has no product for them", "keep their layers on the CPU (--n-gpu-layers)"};
  }
  if (base::Result<void> aligned = check_weights(product.data); !aligned.ok()) {
    return aligned;
  }
  const bool experts = product.groups != nullptr;
  const int tiles =
      experts ? most_tiles(rows.most, product.n_expert) : (rows.most + kTileTokens - 1) / kTileTokens;
  const GemmArgs args{rows.most,
                      rows.used,
                      static_cast<const uint8_t*>(product.data),
                      product.n_rows,
                      static_cast<int>(product.cols),
                      static_cast<int64_t>(product.row_bytes),
                      product.groups,
                      tiles,
                      static_cast<int64_t>(product.expert_bytes),
                      product.rows_per_x,
                      product.x,
                      product.bias,
                      product.y};
  const dim3 blocks{static_cast<unsigned>((product.n_rows + kTileRows - 1) / kTileRows),
                    static_cast<unsigned>(tiles), 1};
  return launch(row->name, row->kernel, blocks, kThreads, 0, stream, args);
}

size_t group_ints(int rows, int n_expert) {
  return static_cast<size_t>(1 + most_tiles(rows, n_expert) * kTileInts + rows);
}

base::Result<void> group_rows(Stream stream, Rows rows, const int* expert, int n_expert, int* groups) {
  AR_CHECK(1 <= n_expert && n_expert <= kMostExperts, "more experts than the kernel has room for");
  const GroupArgs args{rows.most, rows.used, expert, n_expert, most_tiles(rows.most, n_expert), groups};
  return launch("group_rows", sort_rows, dim3{1, 1, 1}, kGroupThreads, 0, stream, args);
}

}  // namespace kernels::cuda
