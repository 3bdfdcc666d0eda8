#include "kernels/cuda/bandwidth.h"

#include <algorithm>
#include <chrono>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/runtime.h"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kFlight = 4;  // loads a thread has under way

struct ReadArgs {
  Global<const uint8_t> data;
  int64_t vectors;  // of 16 bytes
  Global<uint32_t> out;
};

__device__ __forceinline__ uint32_t mixed(uint4 v) {
  return v.x ^ v.y ^ v.z ^ v.w;
}

__global__ void __launch_bounds__(kThreads) read_vectors(ReadArgs a) {
  AR_SHARED(uint32_t, sums, kWarps);
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kFlight - 1) * step < a.vectors; i += kFlight * step) {
    uint4 v[kFlight];
    AR_UNROLL
    for (int j = 0; j < kFlight; ++j) {
      v[j] = load<uint4>(a.data + (i + j * step) * 16);
    }
    AR_UNROLL
    for (int j = 0; j < kFlight; ++j) {
      sum ^= mixed(v[j]);
    }
  }
  for (; i < a.vectors; i += step) {
    sum ^= mixed(load<uint4>(a.data + i * 16));
  }
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    sum ^= __shfl_xor_sync(kAllLanes, sum, bits);
  }
  if (lane_id() == 0) {
    sums[warp_id()] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kWarps; ++warp) {
      sum ^= sums[warp];
    }
    a.out[blockIdx.x] = sum;  // or the compiler would leave the loads out
  }
}

}  // namespace

base::Result<void> read_all(Stream stream, const void* data, uint64_t bytes, uint32_t* out) {
  AR_CHECK(bytes % 16 == 0, "whole vectors");
  const ReadArgs args{static_cast<const uint8_t*>(data), static_cast<int64_t>(bytes / 16), out};
  const uint64_t wanted = bytes / 16 / (kThreads * kFlight) + 1;
  const auto blocks = static_cast<unsigned>(std::min<uint64_t>(wanted, kReadSums));
  return launch("read_all", read_vectors, dim3{blocks, 1, 1}, kThreads, 0, stream, args);
}

base::Result<double> read_bandwidth(Stream stream, const void* data, uint64_t bytes, int passes,
                                    uint32_t* out) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int pass = 0; pass <= passes; ++pass) {
    const auto began = Clock::now();
    auto done = read_all(stream, data, bytes, out);
    if (done.ok()) {
      done = synchronise(stream);
    }
    if (!done) {
      return done.failure();
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    best = pass == 0 ? best : std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace kernels::cuda
