// Integer dots with AVX-512 and VNNI. Four rows at a time; their sums over a block are brought together in one
// register, so that all that comes after the integers (scales, float sums) is done for four rows at once.

#include "kernels/isa/avx512vnni.h"

#if defined(__x86_64__)

namespace kernels {
namespace avx512 {
namespace {

// ---- Blocks of 256 values ----

// For each register of codes: which multiplier belongs to a lane, of 16 bits or, for kWide, of 32.
struct Index {
  alignas(64) uint16_t narrow[4][32];
  alignas(64) uint32_t wide[4][16];
};
constexpr Index index_of(const Halves& halves) {
  Index index{};
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < 32; ++i) {
      index.narrow[k][i] = static_cast<uint16_t>(halves.at[4 * k + i / 8]);
    }
    for (int i = 0; i < 16; ++i) {
      index.wide[k][i] = static_cast<uint32_t>(halves.at[4 * k + i / 4] / 2);
    }
  }
  return index;
}
template <class F>
inline constexpr Index kIndex = index_of(F::kHalves);

// The sums of one block in 16 lanes that add up to them.
template <class F>
DOTS_VNNI_INLINE __m512i block_sums(const uint8_t* p, const Codes& a, __m256i sums) {
  const Codes u = F::codes(p);
  const __m256i scales = F::scales(p);
  const __m512i table = _mm512_castsi256_si512(scales), zero = _mm512_setzero_si512();
  __m512i acc;
  if constexpr (F::kWide) {
    const auto& index = kIndex<F>.wide;
    const __m512i s0 = _mm512_permutexvar_epi32(load512(index[0]), table);
    const __m512i s1 = _mm512_permutexvar_epi32(load512(index[1]), table);
    const __m512i s2 = _mm512_permutexvar_epi32(load512(index[2]), table);
    const __m512i s3 = _mm512_permutexvar_epi32(load512(index[3]), table);
    const __m512i low = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_dpbusd_epi32(zero, u.c0, a.c0), s0),
                                         _mm512_mullo_epi32(_mm512_dpbusd_epi32(zero, u.c1, a.c1), s1));
    const __m512i high = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_dpbusd_epi32(zero, u.c2, a.c2), s2),
                                          _mm512_mullo_epi32(_mm512_dpbusd_epi32(zero, u.c3, a.c3), s3));
    const __m256i of_parts = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    const __m256i offsets = _mm256_slli_epi32(_mm256_mullo_epi32(scales, of_parts), F::kOffset);
    acc = _mm512_sub_epi32(_mm512_add_epi32(low, high), _mm512_zextsi256_si512(offsets));
  } else {
    const auto& index = kIndex<F>.narrow;
    acc = _mm512_dpwssd_epi32(zero, _mm512_maddubs_epi16(u.c0, a.c0),
                              _mm512_permutexvar_epi16(load512(index[0]), table));
    acc = _mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(u.c1, a.c1),
                              _mm512_permutexvar_epi16(load512(index[1]), table));
    acc = _mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(u.c2, a.c2),
                              _mm512_permutexvar_epi16(load512(index[2]), table));
    acc = _mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(u.c3, a.c3),
                              _mm512_permutexvar_epi16(load512(index[3]), table));
    if constexpr (F::kOffset >= 0) {
      const __m256i offsets = _mm256_slli_epi32(_mm256_madd_epi16(scales, sums), F::kOffset);
      acc = _mm512_sub_epi32(acc, _mm512_zextsi256_si512(offsets));
    }
  }
  return acc;
}

template <class F>
DOTS_VNNI void rows_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                        float* out) {
  const int64_t n_blocks = n / kDotValues;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    __m256 acc = _mm256_setzero_ps();  // four sums; with minimums, theirs after them
    size_t at = 0;
    for (int64_t b = 0; b < n_blocks; ++b, at += F::kBytes) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      prefetch<F::kBytes>(p0, row_bytes);
      const Codes a = F::arranged(x[b].q);
      const __m256i sums = load256(x[b].sums);
      const __m512i t = transposed_sums(block_sums<F>(p0, a, sums), block_sums<F>(p1, a, sums),
                                        block_sums<F>(p2, a, sums), block_sums<F>(p3, a, sums));
      const __m256 scale = _mm256_mul_ps(factors<F>(p0, p1, p2, p3), _mm256_set1_ps(x[b].d[0]));
      const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(t), _mm512_extracti64x4_epi64(t, 1));
      const __m128i dots = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
      __m256i sum = _mm256_zextsi128_si256(dots);
      if constexpr (F::kMins) {
        const __m128i mins =
            row_sums(_mm256_madd_epi16(F::mins(p0), sums), _mm256_madd_epi16(F::mins(p1), sums),
                     _mm256_madd_epi16(F::mins(p2), sums), _mm256_madd_epi16(F::mins(p3), sums));
        sum = _mm256_inserti128_si256(_mm256_castsi128_si256(dots), mins, 1);
      }
      acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
    }
    __m128 result = _mm256_castps256_ps128(acc);
    if constexpr (F::kMins) {
      result = _mm_sub_ps(result, _mm256_extractf128_ps(acc, 1));
    }
    store_rows(result, n_rows - r, out + r);
  }
}

// ---- Blocks of 32 values, four at a time ----

template <class F>
DOTS_VNNI_INLINE __m512i four_sums(const uint8_t* p, const HalfCodes& a) {
  const HalfCodes u = F::codes(p);
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), u.first, a.first), u.second,
                             a.second);
}

// Words of 64-byte loads that hold the d of four blocks, four times each: one load where they all lie in it, else one
// for blocks 0 and 1 and one for the others, which ends with them where it must.
template <int kBytes>
struct FactorsAt {
  static constexpr bool kOne = 3 * kBytes + 4 <= 64;
  static constexpr int kSecond = kBytes >= 32 ? 2 * kBytes : 4 * kBytes - 64;
  alignas(64) uint16_t word[32];
  constexpr FactorsAt() : word() {
    for (int i = 0; i < 16; ++i) {
      const int byte = i / 4 * kBytes - (kOne || i < 8 ? 0 : kSecond);
      word[i] = static_cast<uint16_t>(byte / 2);
    }
  }
};
template <int kBytes>
inline constexpr FactorsAt<kBytes> kFactorsAt;

// Of four blocks of four rows, block by block: the fp16 at the beginning of each, or kNext: the one after it.
template <int kBytes, bool kNext>
DOTS_VNNI_INLINE __m512 four_factors(const uint8_t* p0, const uint8_t* p1, const uint8_t* p2,
                                     const uint8_t* p3) {
  using At = FactorsAt<kBytes>;
  __m512i index = load512(kFactorsAt<kBytes>.word);
  if constexpr (kNext) {
    index = _mm512_add_epi16(index, _mm512_set1_epi16(1));
  }
  constexpr uint32_t kMask = At::kOne ? 0x1111 : 0x0011;
  __m512i d = _mm512_permutexvar_epi16(index, load512(p0));
  d = _mm512_mask_permutexvar_epi16(d, kMask << 1, index, load512(p1));
  d = _mm512_mask_permutexvar_epi16(d, kMask << 2, index, load512(p2));
  d = _mm512_mask_permutexvar_epi16(d, kMask << 3, index, load512(p3));
  if constexpr (!At::kOne) {
    d = _mm512_mask_permutexvar_epi16(d, 0x1100, index, load512(p0 + At::kSecond));
    d = _mm512_mask_permutexvar_epi16(d, 0x2200, index, load512(p1 + At::kSecond));
    d = _mm512_mask_permutexvar_epi16(d, 0x4400, index, load512(p2 + At::kSecond));
    d = _mm512_mask_permutexvar_epi16(d, 0x8800, index, load512(p3 + At::kSecond));
  }
  return _mm512_cvtph_ps(_mm512_castsi512_si256(d));
}

struct Chains {
  __m512 dots, mins;  // element 4 * chain + row
};

// Four blocks of four rows; `half` of the activations.
template <class F>
DOTS_VNNI_INLINE void add_blocks(const uint8_t* p0, const uint8_t* p1, const uint8_t* p2, const uint8_t* p3,
                                 const DotBlock& x, int half, Chains& chains) {
  const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i a = load512(x.q + 128 * half), b = load512(x.q + 128 * half + 64);
  const HalfCodes codes{_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd)};
  const __m128i of_blocks = _mm_madd_epi16(load128(x.sums + 8 * half), _mm_set1_epi16(1));
  const __m512i sums = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(of_blocks));
  const __m512 da = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(x.d + 4 * half)));
  __m512i t = transposed_sums(four_sums<F>(p0, codes), four_sums<F>(p1, codes), four_sums<F>(p2, codes),
                              four_sums<F>(p3, codes));
  if constexpr (F::kOffset >= 0) {
    t = _mm512_sub_epi32(t, _mm512_slli_epi32(sums, F::kOffset));
  }
  const __m512 d = four_factors<F::kBytes, false>(p0, p1, p2, p3);
  chains.dots = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), _mm512_mul_ps(d, da), chains.dots);
  if constexpr (F::kMins) {
    const __m512 m = four_factors<F::kBytes, true>(p0, p1, p2, p3);
    chains.mins = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(m, da), chains.mins);
  }
}

DOTS_VNNI_INLINE __m128 joined_chains(__m512 v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <class F>
DOTS_VNNI void rows_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n,
                       float* out) {
  constexpr size_t kStep = 4 * F::kBytes;
  const int64_t n_steps = n / 128;
  for (int r = 0; r < n_rows; r += 4) {
    const FourRows rows(w, row_bytes, r, n_rows);
    Chains chains{_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t at = 0;
    for (int64_t step = 0; step < n_steps; ++step, at += kStep) {
      const uint8_t *p0 = rows.p0 + at, *p1 = rows.p1 + at, *p2 = rows.p2 + at, *p3 = rows.p3 + at;
      prefetch<kStep>(p0, row_bytes);
      add_blocks<F>(p0, p1, p2, p3, x[step / 2], static_cast<int>(step % 2), chains);
    }
    if (n % 128 != 0) {  // up to three blocks, with zeros after them
      alignas(64) uint8_t rest[4][kStep] = {};
      const size_t bytes = static_cast<size_t>(n % 128 / 32) * F::kBytes;
      std::memcpy(rest[0], rows.p0 + at, bytes);
      std::memcpy(rest[1], rows.p1 + at, bytes);
      std::memcpy(rest[2], rows.p2 + at, bytes);
      std::memcpy(rest[3], rows.p3 + at, bytes);
      add_blocks<F>(rest[0], rest[1], rest[2], rest[3], x[n_steps / 2], static_cast<int>(n_steps % 2),
                    chains);
    }
    __m128 result = joined_chains(chains.dots);
    if constexpr (F::kMins) {
      result = _mm_add_ps(result, joined_chains(chains.mins));
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

bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("avx2");
}

}  // namespace
}  // namespace avx512

const DotIsa kAvx512Vnni{"avx512vnni", avx512::usable, avx512::kKernels, avx512::score_rows};

}  // namespace kernels

#endif  // __x86_64__
