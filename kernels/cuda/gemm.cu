#include "kernels/cuda/gemm.h"

#include <string>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/weights.cuh"
#include "kernels/formats/half.h"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kHalvesThreads = 256;

__device__ __forceinline__ uint32_t half_of(float x) {
  const float low = x < -kF16Max ? -kF16Max : x;
  return float_to_half(low > kF16Max ? kF16Max : low);
}
__device__ __forceinline__ uint32_t halves_of(float low, float high) {
  return half_of(low) | half_of(high) << 16;
}

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
  AR_UNROLL
  for (int j = 0; j < 8; ++j) {
    v[j] = a.x[at + j];
    if (a.up != nullptr) {
      v[j] = v[j] / (1.0F + expf(-v[j])) * a.up[at + j];
    }
  }
  store(a.out + at,
        uint4{halves_of(v[0], v[1]), halves_of(v[2], v[3]), halves_of(v[4], v[5]), halves_of(v[6], v[7])});
}

// ---- The product: blocks of kTileRows weight rows x kTileTokens; a warp has 16 of the rows and all tokens ----

constexpr int kThreads = 128;
constexpr int kTileRows = 16 * kThreads / kWarpThreads, kTileTokens = 64;
constexpr int kStep = 128;  // columns at a time: four units of every format lie next to each other there
constexpr int kPitch =
    kStep + 8;  // halves from a row of a tile to the next: no two of a fragment's rows share banks
static_assert((kTileRows + kTileTokens) * kPitch * sizeof(uint16_t) <= (size_t{48} << 10));

struct GemmArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const uint8_t> data;
  int64_t n_rows;
  int cols;
  int64_t row_bytes;
  Global<const uint16_t> x;
  Global<const float> bias;
  Global<float> y;
};

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
        AR_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int code = static_cast<int8_t>(u.codes[4 * h + i] >> (8 * j)) - Loader::kOffset;
          v[j] = d * static_cast<float>(code) - min;
        }
        out[8 * h + 2 * i] = halves_of(v[0], v[1]);
        out[8 * h + 2 * i + 1] = halves_of(v[2], v[3]);
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
    AR_UNROLL
    for (int i = 0; i < 16; ++i) {
      const Global<const uint8_t> p = row + (32 * unit + 2 * i) * static_cast<int>(sizeof(Stored));
      out[i] = halves_of(value(load<Stored>(p)), value(load<Stored>(p + sizeof(Stored))));
    }
  }
};

template <class Loader>
__global__ void __launch_bounds__(kThreads) multiply_tiles(GemmArgs a) {
  AR_SHARED(uint16_t, weights, kTileRows * kPitch);
  AR_SHARED(uint16_t, tokens, kTileTokens * kPitch);
  const int used = a.used_rows == nullptr ? a.most_rows : a.used_rows[0];
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id();
  const int64_t row0 = int64_t{blockIdx.x} * kTileRows;
  const int token0 = static_cast<int>(blockIdx.y) * kTileTokens;
  if (token0 >= used) {
    return;
  }
  float c[kTileTokens / 8][4] = {};
  for (int begin = 0; begin < a.cols; begin += kStep) {
    // Units of a step: 4; those past the last column are zeros, rows past the last are the last again.
    for (int i = thread; i < kTileRows * 4; i += kThreads) {
      const int row = i / 4, unit = begin / 32 + i % 4;
      uint32_t halves[16] = {};
      int at[2] = {32 * unit, 32 * unit + 16};
      if (32 * unit < a.cols) {
        const int64_t from = row0 + row < a.n_rows ? row0 + row : a.n_rows - 1;
        Loader::load_unit(a.data + from * a.row_bytes, unit, halves, at);
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
      const int token = i / (kStep / 8), at = i % (kStep / 8) * 8;
      uint4 v{0, 0, 0, 0};
      if (token0 + token < used && begin + at < a.cols) {
        v = load<uint4>(a.x + (int64_t{token0 + token} * a.cols + (begin + at)));
      }
      store(tokens + (token * kPitch + at), v);
    }
    __syncthreads();
    const int g = lane / 4, t = lane % 4;
    AR_UNROLL
    for (int k = 0; k < kStep; k += 16) {
      const Shared<uint16_t> from = weights + ((16 * warp_id() + g) * kPitch + k + 2 * t);
      const uint32_t fa[4] = {load<uint32_t>(from), load<uint32_t>(from + 8 * kPitch),
                              load<uint32_t>(from + 8), load<uint32_t>(from + (8 * kPitch + 8))};
      AR_UNROLL
      for (int n = 0; n < kTileTokens / 8; ++n) {
        const Shared<uint16_t> x = tokens + ((8 * n + g) * kPitch + k + 2 * t);
        const uint32_t fb[2] = {load<uint32_t>(x), load<uint32_t>(x + 8)};
        mma_f16(c[n], fa, fb);
      }
    }
    __syncthreads();
  }
  AR_UNROLL
  for (int n = 0; n < kTileTokens / 8; ++n) {
    AR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t row = row0 + 16 * warp_id() + lane / 4 + i / 2 * 8;
      const int token = token0 + 8 * n + lane % 4 * 2 + i % 2;
      if (row < a.n_rows && token < used) {
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
  const GemmArgs args{rows.most,
                      rows.used,
                      static_cast<const uint8_t*>(product.data),
                      product.n_rows,
                      static_cast<int>(product.cols),
                      static_cast<int64_t>(product.row_bytes),
                      product.x,
                      product.bias,
                      product.y};
  const dim3 blocks{static_cast<unsigned>((product.n_rows + kTileRows - 1) / kTileRows),
                    static_cast<unsigned>((rows.most + kTileTokens - 1) / kTileTokens), 1};
  return launch(row->name, row->kernel, blocks, kThreads, 0, stream, args);
}

}  // namespace kernels::cuda
