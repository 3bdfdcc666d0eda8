#pragma once
// What rounding activations to int8 and to float16 share.

#include "kernels/cuda/device.cuh"

namespace kernels::cuda {

// x[at .. at + 8), or silu(x) * up where up is given; at a multiple of four.
__device__ __forceinline__ void load_eight(Global<const float> x, Global<const float> up, int64_t at,
                                           float (&out)[8]) {
  AR_UNROLL
  for (int i = 0; i < 8; i += 4) {
    const float4 v = load<float4>(x + (at + i));
    out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
    if (up == nullptr) {
      continue;
    }
    const float4 by = load<float4>(up + (at + i));
    const float factors[4] = {by.x, by.y, by.z, by.w};
    AR_UNROLL
    for (int j = 0; j < 4; ++j) {
      out[i + j] = out[i + j] / (1.0F + expf(-out[i + j])) * factors[j];
    }
  }
}

}  // namespace kernels::cuda
