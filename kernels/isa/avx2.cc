// Integer dots with AVX2: four rows at a time, a part of 32 values after the other.

#include "kernels/isa/avx2.h"

#if defined(__x86_64__)

namespace kernels {
namespace avx2 {
namespace {

// ---- Blocks of 256 values ----

// Adds part k's sums, times their multipliers: words 2k and 2k + 1 of scales, four parts of which are in each half.
template <class F, int k>
DOTS_AVX2_INLINE void add_part(const uint8_t* p, const int8_t* q, __m256i low, __m256i high, __m256i& acc) {
  constexpr char k0 = k % 4 * 4, k1 = k0 + 1, k2 = k0 + 2, k3 = k0 + 3;
  const __m256i spread = _mm256_setr_epi8(k0, k1, k0, k1, k0, k1, k0, k1, k0, k1, k0, k1, k0, k1, k0, k1, k2,
                                          k3, k2, k3, k2, k3, k2, k3, k2, k3, k2, k3, k2, k3, k2, k3);
  const __m256i scale = _mm256_shuffle_epi8(k < 4 ? low : high, spread);
  const __m256i pairs = pair_sums<F::kSigned>(F::template part<k>(p), load256(q + 32 * k));
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, scale));
}

// The sums of one block in eight lanes that add up to them.
template <class F>
DOTS_AVX2_INLINE __m256i block_sums(const uint8_t* p, const int8_t* q, __m256i sums) {
  const __m256i scales = F::scales(p);
  const __m256i low = _mm256_permute4x64_epi64(scales, 0x44), high = _mm256_permute4x64_epi64(scales, 0xee);
  __m256i acc = _mm256_setzero_si256();
  if constexpr (F::kOffset >= 0) {
    acc = _mm256_sub_epi32(acc, _mm256_slli_epi32(_mm256_madd_epi16(scales, sums), F::kOffset));
  }
  add_part<F, 0>(p, q, low, high, acc);
  add_part<F, 1>(p, q, low, high, acc);
  add_part<F, 2>(p, q, low, high, acc);
  add_part<F, 3>(p, q, low, high, acc);
  add_part<F, 4>(p, q, low, high, acc);
  add_part<F, 5>(p, q, low, high, acc);
  add_part<F, 6>(p, q, low, high, acc);
  add_part<F, 7>(p, q, low, high, acc);
  return acc;
}

template <class F>
DOTS_AVX2 void rows_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                        float* out) {
  const int64_t n_blocks = n / kDotValues;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    __m256 acc = _mm256_setzero_ps();  // four sums; with minimums, theirs after them
    size_t at = 0;
    for (int64_t b = 0; b < n_blocks; ++b, at += F::kBytes) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      prefetch<F::kBytes>(p0, row_bytes);
      const int8_t* q = x[b].q;
      const __m256i sums = load256(x[b].sums);
      const __m128i dots = row_sums(block_sums<F>(p0, q, sums), block_sums<F>(p1, q, sums),
                                    block_sums<F>(p2, q, sums), block_sums<F>(p3, q, sums));
      __m256i sum = _mm256_zextsi128_si256(dots);
      if constexpr (F::kMins) {
        const __m128i mins =
            row_sums(_mm256_madd_epi16(F::mins(p0), sums), _mm256_madd_epi16(F::mins(p1), sums),
                     _mm256_madd_epi16(F::mins(p2), sums), _mm256_madd_epi16(F::mins(p3), sums));
        sum = _mm256_inserti128_si256(sum, mins, 1);
      }
      const __m256 scale = _mm256_mul_ps(factors<F>(p0, p1, p2, p3), _mm256_set1_ps(x[b].d[0]));
      acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
    }
    __m128 result = _mm256_castps256_ps128(acc);
    if constexpr (F::kMins) {
      result = _mm_sub_ps(result, _mm256_extractf128_ps(acc, 1));
    }
    store_rows(result, n_rows - r, out + r);
  }
}

// ---- Blocks of 32 values ----

template <class F>
DOTS_AVX2_INLINE __m256i lane_sums(const uint8_t* p, __m256i a) {
  return _mm256_madd_epi16(pair_sums<F::kSigned>(F::codes(p), a), _mm256_set1_epi16(1));
}

DOTS_AVX2_INLINE __m128 halves(const uint8_t* p0, const uint8_t* p1, const uint8_t* p2, const uint8_t* p3) {
  __m128i d = _mm_cvtsi32_si128(word(p0));
  d = _mm_insert_epi16(d, word(p1), 1);
  d = _mm_insert_epi16(d, word(p2), 2);
  return _mm_cvtph_ps(_mm_insert_epi16(d, word(p3), 3));
}

template <class F>
DOTS_AVX2 void rows_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                       float* out) {
  const int64_t n_blocks = n / 32;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    __m128 dots[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
    __m128 mins[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
    size_t at = 0;
    for (int64_t b = 0; b < n_blocks; ++b, at += F::kBytes) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      prefetch<F::kBytes>(p0, row_bytes);
      const DotBlock& block = x[b / 8];
      const int k = static_cast<int>(b % 8);
      const __m256i a = load256(block.q + 32 * k);
      const int of_block = block.sums[2 * k] + block.sums[2 * k + 1];
      __m128i sum =
          row_sums(lane_sums<F>(p0, a), lane_sums<F>(p1, a), lane_sums<F>(p2, a), lane_sums<F>(p3, a));
      if constexpr (F::kOffset >= 0) {
        sum = _mm_sub_epi32(sum, _mm_set1_epi32(of_block * (1 << F::kOffset)));
      }
      const __m128 da = _mm_set1_ps(block.d[k]);
      __m128& chain = dots[b % 4];
      chain = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(halves(p0, p1, p2, p3), da), chain);
      if constexpr (F::kMins) {
        const __m128 m = halves(p0 + 2, p1 + 2, p2 + 2, p3 + 2);
        mins[b % 4] = _mm_fmadd_ps(_mm_set1_ps(static_cast<float>(of_block)), _mm_mul_ps(m, da), mins[b % 4]);
      }
    }
    __m128 result = _mm_add_ps(_mm_add_ps(dots[0], dots[2]), _mm_add_ps(dots[1], dots[3]));
    if constexpr (F::kMins) {
      result = _mm_add_ps(result, _mm_add_ps(_mm_add_ps(mins[0], mins[2]), _mm_add_ps(mins[1], mins[3])));
    }
    store_rows(result, n_rows - r, out + r);
  }
}

constexpr DotKernel kKernels[] = {
    {2, rows_32<Q40>, tile_32<Q40>},      {3, rows_32<Q41>, tile_32<Q41>},
    {6, rows_32<Q50>, tile_32<Q50>},      {7, rows_32<Q51>, tile_32<Q51>},
    {8, rows_32<Q80>, tile_32<Q80>},      {10, rows_256<Q2K>, tile_256<Q2K>},
    {11, rows_256<Q3K>, tile_256<Q3K>},   {12, rows_256<Q4K>, tile_256<Q4K>},
    {13, rows_256<Q5K>, tile_256<Q5K>},   {14, rows_256<Q6K>, tile_256<Q6K>},
    {20, rows_32<Iq4Nl>, tile_32<Iq4Nl>}, {23, rows_256<Iq4Xs>, tile_256<Iq4Xs>},
};

// Whoever has AVX2 has F16C; clang 14 cannot ask for it.
bool usable() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace
}  // namespace avx2

const DotIsa kAvx2{"avx2", avx2::usable, avx2::kKernels, avx2::score_rows};

}  // namespace kernels

#endif  // __x86_64__
