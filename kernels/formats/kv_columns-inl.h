// Accumulation over the rows of a KV page by columns, on AVX-512: sums stay in registers while all rows pass, and codes
// become floats on the way, never stored. Scales are folded into the weights. For a Reader that also has
//   kByColumns                          true
//   scales()                            its scales [slot][groups] of fp16
//   group_of(unit)                      the group that a unit of 32 values belongs to
//   unit<U>(slot, first, v)             unit first + U of a row, without its scale, in v[2 * U] and v[2 * U + 1]

#include <array>

#include "kernels/formats/kv_page.h"
#include "kernels/simd-inl.h"

#ifndef COLUMNS_UNROLL
#if defined(__clang__)
#define COLUMNS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define COLUMNS_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

#if defined(KERNELS_FORMATS_KV_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_KV_COLUMNS_INL_H_
#undef KERNELS_FORMATS_KV_COLUMNS_INL_H_
#else
#define KERNELS_FORMATS_KV_COLUMNS_INL_H_
#endif

#if HWY_TARGET == HWY_AVX3

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// Queries whose sums with two units of columns fit into the registers.
inline constexpr int kColumnQueries = 6;

// What rows weigh in one group of columns, and which rows weigh anything: the others are passed over.
struct ColumnWeights {
  alignas(64) float weight[kColumnQueries][kPageTokens];
  uint16_t any[kPageTokens / 16];
};

template <int Q, class Reader>
HWY_INLINE void weigh(const Reader& reader, int slot0, int n, int group, int n_groups, const float* weights,
                      size_t stride, ColumnWeights& out) {
  const FloatTag df;
  alignas(64) float scales[kPageTokens] = {};
  const uint8_t* from = reader.scales() + 2 * (static_cast<size_t>(slot0) * static_cast<size_t>(n_groups));
  int t = 0;
  for (; n_groups == 1 && t + kLanes <= n; t += kLanes) {
    hn::Store(halves_at(df, from + 2 * t), df, scales + t);
  }
  for (; t < n; ++t) {
    scales[t] = half_at(from + 2 * (t * n_groups + group));
  }
  for (t = 0; t < n; t += kLanes) {
    const int left = n - t;
    const __mmask16 there = left < kLanes ? (1U << left) - 1 : 0xffffU;
    const __m512 scale = _mm512_load_ps(scales + t);
    __mmask16 any = 0;
    for (int q = 0; q < Q; ++q) {
      const __m512 w = _mm512_maskz_loadu_ps(there, weights + stride * static_cast<size_t>(q) + t);
      // Not "less than", so that what is no number counts.
      const __mmask16 some = _mm512_cmp_ps_mask(_mm512_abs_ps(w), _mm512_set1_ps(kNoWeight), _CMP_NLT_UQ);
      any = static_cast<__mmask16>(any | some);
      _mm512_store_ps(out.weight[q] + t, _mm512_maskz_mul_ps(some, w, scale));
    }
    out.any[t / kLanes] = any;
  }
}

// Adds kUnits units of columns of n rows to the sums of Q queries.
template <int Q, int kUnits, class Reader>
HWY_INLINE void add_columns(const Reader& reader, int slot0, int n, int first, const ColumnWeights& weights,
                            float* acc, int head_dim) {
  constexpr int kVectors = 2 * kUnits;
  __m512 sums[Q][kVectors];
  COLUMNS_UNROLL
  for (int q = 0; q < Q; ++q) {
    COLUMNS_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      sums[q][i] = _mm512_loadu_ps(acc + static_cast<size_t>(q) * head_dim + kLanes * i);
    }
  }
  for (int block = 0; block < n; block += kLanes) {
    for (unsigned rows = weights.any[block / kLanes]; rows != 0; rows &= rows - 1) {
      const int t = block + __builtin_ctz(rows);
      VF v[kVectors];
      reader.template unit<0>(slot0 + t, first, v);
      if constexpr (kUnits > 1) reader.template unit<1>(slot0 + t, first, v);
      COLUMNS_UNROLL
      for (int q = 0; q < Q; ++q) {
        const __m512 w = _mm512_set1_ps(weights.weight[q][t]);
        COLUMNS_UNROLL
        for (int i = 0; i < kVectors; ++i) {
          sums[q][i] = _mm512_fmadd_ps(w, v[i].raw, sums[q][i]);
        }
      }
    }
  }
  COLUMNS_UNROLL
  for (int q = 0; q < Q; ++q) {
    COLUMNS_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      _mm512_storeu_ps(acc + static_cast<size_t>(q) * head_dim + kLanes * i, sums[q][i]);
    }
  }
}

// As accumulate_page, for a head_dim that is a multiple of 32.
template <int Q = kColumnQueries, class Reader>
HWY_INLINE void accumulate_columns(const Reader& reader, int head_dim, int slot0, int n, const float* weights,
                                   size_t stride, int n_q, float* acc) {
  const int n_units = head_dim / kBlock, n_groups = reader.group_of(n_units - 1) + 1;
  ColumnWeights of_group;
  for (; n_q >= Q; n_q -= Q, weights += stride * Q, acc += static_cast<size_t>(Q) * head_dim) {
    for (int unit = 0, weighed = -1; unit < n_units;) {
      const int group = reader.group_of(unit);
      if (group != weighed) {
        weigh<Q>(reader, slot0, n, group, n_groups, weights, stride, of_group);
        weighed = group;
      }
      if (unit + 1 < n_units && reader.group_of(unit + 1) == group) {
        add_columns<Q, 2>(reader, slot0, n, unit, of_group, acc + unit * kBlock, head_dim);
        unit += 2;
      } else {
        add_columns<Q, 1>(reader, slot0, n, unit, of_group, acc + unit * kBlock, head_dim);
        unit += 1;
      }
    }
  }
  if constexpr (Q > 1) {
    accumulate_columns<(Q == 6 ? 4 : Q / 2)>(reader, head_dim, slot0, n, weights, stride, n_q, acc);
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3

#endif  // KERNELS_FORMATS_KV_COLUMNS_INL_H_
