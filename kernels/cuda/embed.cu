#include <string>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/points.cuh"
#include "kernels/cuda/weights.cuh"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 128;

struct EmbedArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const uint8_t> table;
  int64_t row_bytes;
  Global<const int> token;
  int n;
  Global<float> out;
};

// A unit of 32 values a thread.
template <class Loader>
struct UnitFloats {
  static __device__ __forceinline__ void write(Global<const uint8_t> row, int unit, Global<float> out) {
    const int block = unit / Loader::kUnits;
    const Unit u = Loader::load(row + int64_t{block} * Loader::kBytes, unit % Loader::kUnits);
    AR_UNROLL
    for (int i = 0; i < 32; ++i) {
      const int h = i / 16;
      const int code = static_cast<int8_t>(u.codes[i / 4] >> (8 * (i % 4))) - Loader::kOffset;
      // The products are exact: one rounding, as on the CPU.
      out[block * Loader::kValues + u.at[h] + i % 16] =
          u.d * static_cast<float>(u.scale[h]) * static_cast<float>(code) -
          u.dmin * static_cast<float>(u.min[h]);
    }
  }
};
template <class Loader>
struct PointFloats {
  static __device__ __forceinline__ void write(Global<const uint8_t> row, int unit, Global<float> out) {
    constexpr int kUnits = Loader::kValues / 32;
    const Global<const uint8_t> block = row + int64_t{unit / kUnits} * Loader::kBytes;
    for (int i = 0; i < 4; ++i) {
      const Eight eight = Loader::load(block, unit % kUnits * 4 + i);
      AR_UNROLL
      for (int j = 0; j < 8; ++j) {
        const int code = static_cast<int8_t>(eight.codes[j / 4] >> (8 * (j % 4)));
        out[32 * unit + 8 * i + j] = eight.factor * static_cast<float>(code);
      }
    }
  }
};
template <class Stored, bool kBrain = false>
struct ElementFloats {
  static __device__ __forceinline__ void write(Global<const uint8_t> row, int unit, Global<float> out) {
    for (int i = 32 * unit; i < 32 * unit + 32; ++i) {
      const Stored stored = load<Stored>(row + i * static_cast<int>(sizeof(Stored)));
      if constexpr (sizeof(Stored) == 4) {
        out[i] = stored;
      } else {
        out[i] = kBrain ? __uint_as_float(uint32_t{stored} << 16) : half_to_float(stored);
      }
    }
  }
};

template <class Values>
__global__ void __launch_bounds__(kThreads) embed_rows(EmbedArgs a) {
  const int row = static_cast<int>(blockIdx.y), unit = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || 32 * unit >= a.n) {
    return;
  }
  Values::write(a.table + a.token[row] * a.row_bytes, unit, a.out + int64_t{row} * a.n);
}

struct Row {
  uint32_t ggml_type;
  void (*kernel)(EmbedArgs);
};
// clang-format off
const Row kRows[] = {
    {0,  embed_rows<ElementFloats<float>>},
    {1,  embed_rows<ElementFloats<uint16_t>>},
    {2,  embed_rows<UnitFloats<Q4_0>>},
    {3,  embed_rows<UnitFloats<Q4_1>>},
    {6,  embed_rows<UnitFloats<Q5_0>>},
    {7,  embed_rows<UnitFloats<Q5_1>>},
    {8,  embed_rows<UnitFloats<Q8_0>>},
    {10, embed_rows<UnitFloats<Q2K>>},
    {11, embed_rows<UnitFloats<Q3K>>},
    {12, embed_rows<UnitFloats<Q4K>>},
    {13, embed_rows<UnitFloats<Q5K>>},
    {14, embed_rows<UnitFloats<Q6K>>},
    {20, embed_rows<UnitFloats<IQ4NL>>},
    {23, embed_rows<UnitFloats<IQ4XS>>},
    {30, embed_rows<ElementFloats<uint16_t, true>>},
    {16, embed_rows<PointFloats<IQ2XXS>>},
    {17, embed_rows<PointFloats<IQ2XS>>},
    {18, embed_rows<PointFloats<IQ3XXS>>},
    {21, embed_rows<PointFloats<IQ3S>>},
    {22, embed_rows<PointFloats<IQ2S>>},
    {39, embed_rows<PointFloats<MXFP4>>},
};
// clang-format on

}  // namespace

base::Result<void> embed(Stream stream, Rows rows, uint32_t ggml_type, const void* table, size_t row_bytes,
                         const int* token, int n, float* out) {
  AR_CHECK(n % 32 == 0, "whole units");
  const EmbedArgs args{
      rows.most, rows.used, static_cast<const uint8_t*>(table), static_cast<int64_t>(row_bytes), token,
      n,         out};
  const auto blocks = static_cast<unsigned>((n / 32 + kThreads - 1) / kThreads);
  for (const Row& row : kRows) {
    if (row.ggml_type == ggml_type) {
      return launch("embed", row.kernel, dim3{blocks, static_cast<unsigned>(rows.most), 1}, kThreads, 0,
                    stream, args);
    }
  }
  return base::Error{"a token table of ggml type " + std::to_string(ggml_type), "the GPU cannot read it",
                     "keep it on the CPU (--n-gpu-layers)"};
}

}  // namespace kernels::cuda
