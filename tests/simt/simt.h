#pragma once
// Stands in for nvcc's language where the kernels of kernels/cuda compile as host C++ (kernels/cuda/device.cuh includes
// it by the name <simt.h>, found through the include path of the tests alone). CUDA's own names, CUDA's meaning.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/formats/half.h"
#include "src/base/error.h"
#include "tests/simt/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define AR_UNROLL
#define AR_NO_UNROLL
#define AR_SHARED(type, name, count) \
  static const char name##_key = 0;  \
  const Shared<type> name = simt::cast<type>(simt::static_shared(&name##_key, sizeof(type) * (count), #name))
#define AR_DYNAMIC_SHARED(name) const Shared<unsigned char> name = simt::dynamic_shared()

template <class T>
using Global = simt::Pointer<T>;
template <class T>
using Shared = simt::Pointer<T>;

// NOLINTBEGIN: CUDA's names
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_SITE) {
  simt::meet_block({file, line});
}
inline void __syncwarp(uint32_t mask = 0xffffffffU, SIMT_SITE) {
  simt::meet_warp(simt::WarpOp::kSync, mask, {}, 0, {file, line});
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote, SIMT_SITE) {
  return simt::meet_warp(simt::WarpOp::kVote, mask, {vote ? 1U : 0U}, 0, {file, line})[0];
}
inline bool __any_sync(uint32_t mask, bool vote, SIMT_SITE) {
  return __ballot_sync(mask, vote, file, line) != 0;
}

namespace simt {
inline int lane() {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  return static_cast<int>(thread % kWarp);
}
template <class T>
T shuffle(uint32_t mask, T value, int from, Site site) {
  static_assert(sizeof(T) <= sizeof(Payload));
  Payload payload{};
  std::memcpy(payload.data(), &value, sizeof value);
  payload = meet_warp(WarpOp::kShuffle, mask, payload, from, site);
  std::memcpy(&value, payload.data(), sizeof value);
  return value;
}
}  // namespace simt

template <class T>
T __shfl_sync(uint32_t mask, T value, int from, SIMT_SITE) {
  return simt::shuffle(mask, value, from & 31, {file, line});
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::lane() ^ bits, {file, line});
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, SIMT_SITE) {
  const int from = simt::lane() + static_cast<int>(by);
  return simt::shuffle(mask, value, from > 31 ? simt::lane() : from, {file, line});
}

inline int __dp4a(int a, int b, int sum) {
  for (int shift = 0; shift < 32; shift += 8) {
    sum += int{static_cast<int8_t>(a >> shift)} * int{static_cast<int8_t>(b >> shift)};
  }
  return sum;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i) & 15U;
    uint32_t byte = static_cast<uint32_t>(both >> (8 * (selector & 7U))) & 255U;
    if ((selector & 8U) != 0) {  // its sign bit eight times
      byte = (byte & 128U) != 0 ? 255U : 0U;
    }
    out |= byte << (8 * i);
  }
  return out;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (shift & 31U));
}
inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t __float_as_uint(float value) {
  return std::bit_cast<uint32_t>(value);
}
inline int __float2int_rn(float value) {
  return static_cast<int>(std::nearbyint(value));
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline int __popc(uint32_t bits) {
  return std::popcount(bits);
}
inline int __ffs(int bits) {
  return bits == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(bits)) + 1;
}
inline float rsqrtf(float x) {
  return 1.0F / std::sqrt(x);
}

template <class T>
T atomicAdd(simt::Pointer<T> p, T value) {
  simt::check_access(p.region(), p.address(), sizeof(T), alignof(T), simt::Access::kAtomic);
  T before, after;
  std::memcpy(&before, reinterpret_cast<const void*>(p.address()), sizeof(T));
  after = before + value;
  std::memcpy(reinterpret_cast<void*>(p.address()), &after, sizeof(T));
  return before;
}
// NOLINTEND

template <class T>
uintptr_t address_of(simt::Pointer<T> p) {
  return p.address();
}
template <class To, class T>
simt::Pointer<To> pointer_cast(simt::Pointer<T> p) {
  return simt::cast<To>(p);
}
template <class V, class T>
V load(simt::Pointer<T> p) {
  return simt::cast<const V>(p)[0];
}
template <class V, class T>
void store(simt::Pointer<T> p, V value) {
  simt::cast<V>(p)[0] = value;
}
// Nothing but an address that must be of memory.
inline void prefetch(simt::Pointer<const uint8_t> p) {
  simt::check_access(p.region(), p.address(), 1, 1, simt::Access::kRead);
}
inline float half_to_float(uint16_t bits) {
  return kernels::f32_from_f16(bits);
}
inline uint16_t float_to_half(float value) {
  return kernels::f16_from_f32(value);
}

namespace simt {

// The launches of a graph, and where to put those that are made; nullptr: they run (tests/simt/runtime.cc).
using Recorded = std::vector<std::function<base::Result<void>()>>;
inline Recorded*& recording() {
  static Recorded* into = nullptr;
  return into;
}

}  // namespace simt

namespace kernels::cuda {

template <class Args>
base::Result<void> launch(const char* name, void (*kernel)(Args), dim3 blocks, int threads,
                          size_t shared_bytes, void* stream, const Args& args) {
  if (simt::Recorded* into = simt::recording()) {
    into->push_back([=] { return launch(name, kernel, blocks, threads, shared_bytes, stream, args); });
    return {};
  }
  const simt::Grid grid{blocks, {static_cast<unsigned>(threads), 1, 1}, shared_bytes};
  std::string fault = simt::run_grid(name, grid, [&] { kernel(args); });
  if (fault.empty()) {
    return {};
  }
  return base::Error{name, std::move(fault), "mend the kernel"};
}

}  // namespace kernels::cuda
