#pragma once
// What kernels are written in: CUDA where nvcc compiles, the shim of tests/simt where a host compiler does. Kernels
// touch memory through Global and Shared pointers alone (plain pointers on the device, checked ones on the host), and
// take one struct by value.

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "src/base/error.h"

#define AR_UNROLL _Pragma("unroll")
#define AR_NO_UNROLL _Pragma("unroll 1")
// Shared memory of a fixed size, and what the launch adds to it. Only at the head of a kernel or device function.
#define AR_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define AR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

template <class T>
using Global = T*;
template <class T>
using Shared = T*;

template <class T>
__device__ __forceinline__ uintptr_t address_of(const T* p) {
  return reinterpret_cast<uintptr_t>(p);
}
template <class To, class T>
__device__ __forceinline__ To* pointer_cast(T* p) {
  return reinterpret_cast<To*>(p);
}
// One access of sizeof(V) bytes, aligned to V.
template <class V, class T>
__device__ __forceinline__ V load(const T* p) {
  return *reinterpret_cast<const V*>(p);
}
template <class V, class T>
__device__ __forceinline__ void store(T* p, V value) {
  *reinterpret_cast<V*>(p) = value;
}
// Asks for the line of L2 that p is in.
__device__ __forceinline__ void prefetch(const uint8_t* p) {
  asm volatile("prefetch.L2 [%0];" ::"l"(p));
}
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
// To the nearest, ties to even; beyond 65504 infinity.
__device__ __forceinline__ uint16_t float_to_half(float value) {
  return __half_as_ushort(__float2half_rn(value));
}

namespace kernels::cuda {

// Runs kernel(args) on a grid; an empty one (a step without rows) is done already. `name` is what an error is reported
// under.
template <class Args>
base::Result<void> launch(const char* name, void (*kernel)(Args), dim3 blocks, int threads,
                          size_t shared_bytes, void* stream, const Args& args) {
  constexpr size_t kUnasked = size_t{48} << 10;  // more dynamic shared memory than this must be asked for
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) {
    return {};
  }
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kUnasked) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    kernel<<<blocks, static_cast<unsigned>(threads), shared_bytes, static_cast<cudaStream_t>(stream)>>>(args);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) {
    return {};
  }
  (void)cudaGetLastError();  // or the next launch would be told of it
  return base::Error{name, cudaGetErrorString(error),
                     "see the GPU's driver log; --n-gpu-layers 0 computes on the CPU"};
}

}  // namespace kernels::cuda

#else

#include <simt.h>

#endif

namespace kernels::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffU;
// What a block can have on every device that is planned for (SM 8.6, 8.9, 12.x); kernels check their need against it
// when they are compiled.
inline constexpr size_t kLeastSharedBytes = size_t{99} << 10;

__device__ __forceinline__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarpThreads;
}
__device__ __forceinline__ int warp_id() {
  return static_cast<int>(threadIdx.x) / kWarpThreads;
}

__device__ __forceinline__ float warp_sum(float x) {
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, bits);
  }
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  AR_UNROLL
  for (int bits = kWarpThreads / 2; bits > 0; bits /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, bits);
    x = other > x ? other : x;
  }
  return x;
}
// Floats without their sign are ordered as integers, NaNs last.
__device__ __forceinline__ uint32_t magnitude_bits(float x) {
  return __float_as_uint(x) & 0x7fffffffU;
}
__device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
  return a > b ? a : b;
}
__device__ __forceinline__ int smaller(int a, int b) {
  return a < b ? a : b;
}
inline constexpr uint32_t kInfinityBits = 0x7f800000U;

// Over all threads of the block, which are whole warps; scratch has room for one float of each warp, and may be used
// again after a barrier.
__device__ __forceinline__ float block_sum(float x, Shared<float> scratch) {
  x = warp_sum(x);
  if (lane_id() == 0) {
    scratch[warp_id()] = x;
  }
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarpThreads; ++i) {
    sum += scratch[i];
  }
  return sum;
}

}  // namespace kernels::cuda
