#pragma once
// Products of a warp on tensor cores: c += a b, with a [16 x k] by rows, b [k x 8] by columns, c [16 x 8]. Lane l has, for
// g = l / 4 and t = l % 4:
//   half8s of f16, k = 16: a words (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), two values each from that column on;
//                          b words (2t, g), (2t + 8, g), two values each from that row on
//   s8, k = 32:            the same with four values a word: columns and rows 4t and 4t + 16
//   c:                     (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// Every lane of the warp takes part.
//
// load_matrices: four matrices of 8 x 8 halves from shared memory; lane 8i + r names row r of matrix i (16 bytes, aligned),
// and gets of each matrix values (g, 2t) and (g, 2t + 1), or, transposed, (2t, g) and (2t + 1, g).

#include "kernels/cuda/device.cuh"

namespace kernels::cuda {

#ifdef __CUDACC__

// float16, sums in float32.
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// int8, sums in int32.
__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(Shared<const uint16_t> row, uint32_t (&out)[4]) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  }
}

#else

template <bool kTransposed>
void load_matrices(Shared<const uint16_t> row, uint32_t (&out)[4], int line = __builtin_LINE()) {
  const uint64_t at = row.address();
  simt::check_access(row.region(), at, 16, 16, simt::Access::kRead);
  simt::meet_warp(simt::WarpOp::kAll, kAllLanes, {static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32)},
                  0, {__FILE__, line});
  const int g = lane_id() / 4, t = lane_id() % 4;
  for (int i = 0; i < 4; ++i) {
    const auto value = [&](int r, int column) {
      const simt::Payload& brought = simt::brought_by(8 * i + r);
      const Shared<const uint16_t> from(row.region(), brought[0] | uint64_t{brought[1]} << 32);
      return uint32_t{from[column]};
    };
    out[i] = kTransposed ? value(2 * t, g) | value(2 * t + 1, g) << 16
                         : value(g, 2 * t) | value(g, 2 * t + 1) << 16;
  }
}

template <class Sum, class Dot>
void mma_on_host(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Dot dot, int line) {
  simt::meet_warp(simt::WarpOp::kAll, kAllLanes, {a[0], a[1], a[2], a[3], b[0], b[1]}, 0, {__FILE__, line});
  const int g = lane_id() / 4, t = lane_id() % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;  // of c; lanes 4 * column and on have that of b, 4g and on the row of a
    for (int half = 0; half < 2; ++half) {
      for (int from = 0; from < 4; ++from) {
        const auto word = static_cast<size_t>(2 * half + i / 2);
        c[i] += dot(simt::brought_by(4 * g + from)[word],
                    simt::brought_by(4 * column + from)[4 + static_cast<size_t>(half)]);
      }
    }
  }
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    int line = __builtin_LINE()) {
  const auto dot = [](uint32_t x, uint32_t y) {
    return half_to_float(static_cast<uint16_t>(x)) * half_to_float(static_cast<uint16_t>(y)) +
           half_to_float(static_cast<uint16_t>(x >> 16)) * half_to_float(static_cast<uint16_t>(y >> 16));
  };
  mma_on_host(c, a, b, dot, line);
}
inline void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  const auto dot = [](uint32_t x, uint32_t y) { return __dp4a(static_cast<int>(x), static_cast<int>(y), 0); };
  mma_on_host(c, a, b, dot, line);
}

#endif

}  // namespace kernels::cuda
