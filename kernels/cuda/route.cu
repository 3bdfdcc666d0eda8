#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

constexpr int kMostExperts = 1024;  // a lane marks those it has given away in 32 bits
constexpr int kMostUsed = 32;
constexpr float kLeastSum = 0x1p-14F;  // as in kernels/route.cc

struct RouteArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const float> logits, bias;
  int n_expert, n_used;
  bool softmax, normalize;
  float scale;
  Global<int> chosen;
  Global<float> weights;
};

// A warp for each row; expert i is looked after by lane i % 32.
__global__ void __launch_bounds__(kWarpThreads) route_rows(RouteArgs a) {
  AR_SHARED(float, probability, kMostExperts);
  const int row = static_cast<int>(blockIdx.x), lane = lane_id();
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0])) {
    return;
  }
  const Global<const float> logits = a.logits + int64_t{row} * a.n_expert;
  float largest = -__uint_as_float(kInfinityBits), sum = 0;
  for (int i = lane; i < a.n_expert && a.softmax; i += kWarpThreads) {
    const float x = logits[i];
    largest = x > largest ? x : largest;
  }
  largest = warp_max(largest);
  for (int i = lane; i < a.n_expert; i += kWarpThreads) {
    const float x = logits[i];
    const float p = a.softmax ? expf(x - largest) : 1.0F / (1.0F + expf(-x));
    probability[i] = p;
    sum += p;
  }
  const float total = a.softmax ? warp_sum(sum) : 1.0F;
  uint32_t given = 0;
  float mine = 0, used = 0;  // the weight of choice `lane`; the sum of all
  for (int choice = 0; choice < a.n_used; ++choice) {
    float best = 0;
    int at = a.n_expert;  // none yet
    for (int i = lane; i < a.n_expert; i += kWarpThreads) {
      float score = probability[i] / total + (a.bias == nullptr ? 0.0F : a.bias[i]);
      score = score == score ? score : -__uint_as_float(kInfinityBits);
      if ((given >> (i / kWarpThreads) & 1U) == 0 && (at == a.n_expert || score > best)) {
        best = score;
        at = i;
      }
    }
    AR_UNROLL
    for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, bits);
      const int other_at = __shfl_xor_sync(kAllLanes, at, bits);
      const bool better = other > best || (other == best && other_at < at);
      if (other_at < a.n_expert && (at == a.n_expert || better)) {
        best = other;
        at = other_at;
      }
    }
    float p = 0;
    if (at % kWarpThreads == lane) {
      given |= 1U << (at / kWarpThreads);
      p = probability[at] / total;
    }
    p = __shfl_sync(kAllLanes, p, at % kWarpThreads);
    used += p;
    mine = choice == lane ? p : mine;
    if (lane == 0) {
      a.chosen[int64_t{row} * a.n_used + choice] = at;
    }
  }
  if (lane < a.n_used) {
    const float by = a.normalize ? (used < kLeastSum ? kLeastSum : used) : 1.0F;  // a NaN stays one
    a.weights[int64_t{row} * a.n_used + lane] = mine * (a.scale / by);
  }
}

}  // namespace

base::Result<void> route(Stream stream, Rows rows, const Router& router, const float* logits, int* chosen,
                         float* weights) {
  AR_CHECK(1 <= router.n_used && router.n_used <= kMostUsed && router.n_used <= router.n_expert &&
               router.n_expert <= kMostExperts,
           "more experts than the kernel has room for");
  const RouteArgs args{rows.most,
                       rows.used,
                       logits,
                       router.bias,
                       router.n_expert,
                       router.n_used,
                       router.gating == Gating::kSoftmax,
                       router.normalize,
                       router.scale,
                       chosen,
                       weights};
  return launch("route", route_rows, dim3{static_cast<unsigned>(rows.most), 1, 1}, kWarpThreads, 0, stream,
                args);
}

}  // namespace kernels::cuda
