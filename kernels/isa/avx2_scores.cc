// Integer scores with AVX2. Four rows at a time become bytes, a unit of a row in a register, beside their magnitudes:
// the sums of two products fit into 16 bits only where the codes' signs have moved to the query.

#include "kernels/isa/avx2.h"

#include "kernels/formats/tcq.h"

#if defined(__x86_64__)

namespace kernels::avx2 {
namespace {

constexpr int kRows = 4;

// The integers of a trellis' windows, one window a byte.
DOTS_AVX2_INLINE __m256i trellis_integers(__m256i windows, const int8_t* integers) {
  const __m256i low = _mm256_and_si256(windows, _mm256_set1_epi8(15));
  const auto quarter = [&](int i) DOTS_AVX2 {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load128(integers + 16 * i)), low);
  };
  const __m256i odd = _mm256_slli_epi16(windows, 3),
                upper = _mm256_slli_epi16(windows, 2);  // bits 4, 5 to the top
  return _mm256_blendv_epi8(_mm256_blendv_epi8(quarter(0), quarter(1), odd),
                            _mm256_blendv_epi8(quarter(2), quarter(3), odd), upper);
}

// 16 windows of a trellis' stream, one in 16 bits: each from the two bytes it lies in, moved to their top and down.
template <int kBits>
DOTS_AVX2_INLINE __m256i windows_of(const uint8_t* block, bool begins) {
  constexpr const TrellisSpread<kBits>& kSpread = kTrellisSpread<kBits>;
  const __m256i bytes = _mm256_broadcastsi128_si256(load128(begins ? block : block - 1));
  const __m256i pairs = _mm256_shuffle_epi8(bytes, load256(begins ? kSpread.first : kSpread.next));
  return _mm256_srli_epi16(_mm256_mullo_epi16(pairs, load256(kSpread.factors)), 16 - kTrellisWindow);
}
template <int kBits>
DOTS_AVX2_INLINE __m256i unit_of_stream(const ScoreRows& rows, const uint8_t* codes, size_t unit) {
  const uint8_t* block = codes + 4 * kBits * unit;
  const bool begins = tile_begins(kBlock * static_cast<int>(unit), rows.head_dim);
  const __m256i both =
      _mm256_packus_epi16(windows_of<kBits>(block, begins), windows_of<kBits>(block + 2 * kBits, false));
  return trellis_integers(_mm256_permute4x64_epi64(both, 0xd8), rows.integers);
}

// A unit's values as the row's codes say.
DOTS_AVX2_INLINE __m256i unit_of(const ScoreRows& rows, size_t row, size_t unit, __m256i integers) {
  const uint8_t* codes = rows.codes + row * rows.codes_row();
  if (rows.stored == ScoreCodes::kNibbles) {
    return _mm256_shuffle_epi8(integers, both_nibbles(codes + 16 * unit));
  }
  if (rows.stored == ScoreCodes::kStream4) return unit_of_stream<4>(rows, codes, unit);
  if (rows.stored == ScoreCodes::kStream3) return unit_of_stream<3>(rows, codes, unit);
  int64_t pairs;
  std::memcpy(&pairs, codes + 8 * unit, sizeof pairs);
  const __m256i apart = _mm256_srlv_epi64(_mm256_set1_epi64x(pairs), _mm256_set_epi64x(6, 4, 2, 0));
  const __m256i low = _mm256_and_si256(apart, _mm256_set1_epi8(3));
  return _mm256_shuffle_epi8(
      integers, _mm256_or_si256(low, spread_bits(rows.top + row * rows.top_row() + 4 * unit, 4)));
}

// Of the four rows, a register each.
struct Sums {
  __m256i s0, s1, s2, s3;
};
DOTS_AVX2_INLINE __m256i add_products(__m256i sum, __m256i codes, __m256i magnitudes, __m256i a) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(a, codes));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace

DOTS_AVX2 void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride) {
  alignas(32) __m256i codes[kRows * kMaxHeadDim / kBlock], magnitudes[kRows * kMaxHeadDim / kBlock];
  alignas(16) float scales[kRows * kMaxHeadDim / kBlock];
  const __m256i integers = _mm256_broadcastsi128_si256(load128(rows.integers));
  const int n_units = rows.units(), n_groups = rows.groups();
  for (int r = 0; r < n; r += kRows) {
    for (int i = 0; i < kRows; ++i) {
      const auto row = static_cast<size_t>(std::min(r + i, n - 1));  // past the last row it is repeated
      for (int unit = 0; unit < n_units; ++unit) {
        const __m256i values = unit_of(rows, row, static_cast<size_t>(unit), integers);
        codes[kRows * unit + i] = values;
        magnitudes[kRows * unit + i] = _mm256_abs_epi8(values);
      }
      for (int group = 0; group < n_groups; ++group) {
        scales[kRows * group + i] = _mm_cvtss_f32(
            _mm_cvtph_ps(_mm_cvtsi32_si128(word(rows.scales + row * rows.scales_row() + 2 * group))));
      }
    }
    for (int q = 0; q < query.n_q; ++q) {
      const int8_t* a = query.of(q);
      __m128 score = _mm_setzero_ps();
      for (int unit = 0, group = 0; unit < n_units; ++group) {
        const __m256i zero = _mm256_setzero_si256();
        Sums sums{zero, zero, zero, zero};
        const int end = unit + rows.units_from(unit);
        for (; unit < end; ++unit) {
          const __m256i *c = codes + kRows * unit, *m = magnitudes + kRows * unit;
          const __m256i of_query = load256(a + kBlock * unit);
          sums.s0 = add_products(sums.s0, c[0], m[0], of_query);
          sums.s1 = add_products(sums.s1, c[1], m[1], of_query);
          sums.s2 = add_products(sums.s2, c[2], m[2], of_query);
          sums.s3 = add_products(sums.s3, c[3], m[3], of_query);
        }
        const __m128 scale = _mm_mul_ps(_mm_load_ps(scales + kRows * group),
                                        _mm_set1_ps(query.scales_at(q / 4, group)[q % 4]));
        score = _mm_fmadd_ps(_mm_cvtepi32_ps(row_sums(sums.s0, sums.s1, sums.s2, sums.s3)), scale, score);
      }
      store_rows(score, n - r, scores + static_cast<size_t>(q) * static_cast<size_t>(score_stride) + r);
    }
  }
}

}  // namespace kernels::avx2

#endif  // __x86_64__
