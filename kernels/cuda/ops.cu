#include "kernels/cuda/ops.h"

#include "kernels/cuda/device.cuh"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;

struct RowCount {
  int most;
  Global<const int> used;
  __device__ bool has(int row) const { return row < (used == nullptr ? most : used[0]); }
};

struct NormArgs {
  RowCount rows;
  Global<float> h;
  Global<const float> delta, weight;
  int n;
  float eps;
  Global<float> out;
};

__device__ __forceinline__ float4 plus(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ __forceinline__ float dot(float4 a, float4 b) {
  return a.x * b.x + a.y * b.y + (a.z * b.z + a.w * b.w);
}

__global__ void __launch_bounds__(kThreads) add_norm_rows(NormArgs a) {
  AR_SHARED(float, scratch, kWarps);
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (!a.rows.has(row)) {
    return;
  }
  const int64_t at = int64_t{row} * a.n;
  float square = 0;
  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {
    float4 x = load<float4>(a.h + at + i);
    if (a.delta != nullptr) {
      x = plus(x, load<float4>(a.delta + at + i));
      store(a.h + at + i, x);
    }
    square += dot(x, x);
  }
  const float scale = 1.0F / sqrtf(block_sum(square, scratch) / static_cast<float>(a.n) + a.eps);
  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {  // each thread what it wrote itself
    const float4 x = load<float4>(a.h + at + i), w = load<float4>(a.weight + i);
    store(a.out + at + i, float4{x.x * scale * w.x, x.y * scale * w.y, x.z * scale * w.z, x.w * scale * w.w});
  }
}

struct TurnArgs {
  RowCount rows;
  Global<float> x;
  Global<const float> weight, cos_sin;
  int heads, dim, n_rot;
  bool norm_all, neox;
  float eps;
};

// A warp for each head of a row. Blocks: rows x kWarps heads each; where all heads share a norm, one block a row.
__global__ void __launch_bounds__(kThreads) turn_rows(TurnArgs a) {
  AR_SHARED(float, scratch, kWarps);
  const int row = static_cast<int>(blockIdx.x), width = a.heads * a.dim;
  if (!a.rows.has(row)) {
    return;
  }
  const Global<float> x = a.x + int64_t{row} * width;
  const Global<const float> cos_sin = a.cos_sin + int64_t{row} * a.n_rot;
  float all = 1;
  if (a.weight != nullptr && a.norm_all) {
    float square = 0;
    for (int i = static_cast<int>(threadIdx.x); i < width; i += kThreads) {
      const float value = x[i];
      square += value * value;
    }
    all = 1.0F / sqrtf(block_sum(square, scratch) / static_cast<float>(width) + a.eps);
  }
  const auto stride = static_cast<int>(gridDim.y) * kWarps;
  for (int head = static_cast<int>(blockIdx.y) * kWarps + warp_id(); head < a.heads; head += stride) {
    const Global<float> h = x + head * a.dim;
    float scale = all;
    if (a.weight != nullptr && !a.norm_all) {
      float square = 0;
      for (int i = lane_id(); i < a.dim; i += kWarpThreads) {
        const float value = h[i];
        square += value * value;
      }
      scale = 1.0F / sqrtf(warp_sum(square) / static_cast<float>(a.dim) + a.eps);
    }
    const int first_weight = a.norm_all ? head * a.dim : 0;
    const auto at = [&](int i) -> float {
      const float value = h[i];
      return a.weight == nullptr ? value : value * scale * a.weight[first_weight + i];
    };
    // Each value is read and written by the same lane.
    for (int pair = lane_id(); pair < a.n_rot / 2; pair += kWarpThreads) {
      const int first = a.neox ? pair : 2 * pair, second = a.neox ? pair + a.n_rot / 2 : 2 * pair + 1;
      const float u = at(first), v = at(second), c = cos_sin[2 * pair], s = cos_sin[2 * pair + 1];
      h[first] = u * c - v * s;
      h[second] = u * s + v * c;
    }
    for (int i = a.n_rot + lane_id(); i < a.dim && a.weight != nullptr; i += kWarpThreads) {
      h[i] = at(i);
    }
  }
}

struct SwigluArgs {
  RowCount rows;
  Global<float> gate;
  Global<const float> up;
  int n;
};

__global__ void __launch_bounds__(kThreads) swiglu_rows(SwigluArgs a) {
  const int row = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (!a.rows.has(row) || i >= a.n) {
    return;
  }
  const int64_t at = int64_t{row} * a.n + i;
  const float g = a.gate[at];
  a.gate[at] = g / (1.0F + expf(-g)) * a.up[at];
}

struct MixArgs {
  RowCount rows;
  Global<const float> x, weights;
  int k, n;
  Global<float> y;
};

__global__ void __launch_bounds__(kThreads) mix_rows(MixArgs a) {
  const int row = static_cast<int>(blockIdx.y);
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (!a.rows.has(row) || i >= a.n) {
    return;
  }
  float sum = 0;
  for (int j = 0; j < a.k; ++j) {
    const int64_t slot = int64_t{row} * a.k + j;
    sum += a.weights[slot] * a.x[slot * a.n + i];
  }
  const int64_t at = int64_t{row} * a.n + i;
  a.y[at] += sum;
}

dim3 row_grid(int n, int rows) {
  return {static_cast<unsigned>((n + kThreads - 1) / kThreads), static_cast<unsigned>(rows), 1};
}

}  // namespace

base::Result<void> add_norm(Stream stream, Rows rows, float* h, const float* delta, const float* weight,
                            int n, float eps, float* out) {
  const NormArgs args{{rows.most, rows.used}, h, delta, weight, n, eps, out};
  return launch("add_norm", add_norm_rows, dim3{static_cast<unsigned>(rows.most), 1, 1}, kThreads, 0, stream,
                args);
}

base::Result<void> turn_heads(Stream stream, Rows rows, const HeadTurn& turn) {
  const TurnArgs args{
      {rows.most, rows.used}, turn.x,    turn.weight, turn.cos_sin, turn.heads, turn.dim, turn.n_rot,
      turn.norm_all,          turn.neox, turn.eps};
  const bool together = turn.weight != nullptr && turn.norm_all;
  const auto blocks = together ? 1U : static_cast<unsigned>((turn.heads + kWarps - 1) / kWarps);
  return launch("turn_heads", turn_rows, dim3{static_cast<unsigned>(rows.most), blocks, 1}, kThreads, 0,
                stream, args);
}

base::Result<void> swiglu(Stream stream, Rows rows, float* gate, const float* up, int n) {
  const SwigluArgs args{{rows.most, rows.used}, gate, up, n};
  return launch("swiglu", swiglu_rows, row_grid(n, rows.most), kThreads, 0, stream, args);
}

base::Result<void> mix(Stream stream, Rows rows, const float* x, const float* weights, int k, int n,
                       float* y) {
  const MixArgs args{{rows.most, rows.used}, x, weights, k, n, y};
  return launch("mix", mix_rows, row_grid(n, rows.most), kThreads, 0, stream, args);
}

}  // namespace kernels::cuda
