// Integer dots of several activation vectors with AVX2: the codes of 8 rows are unpacked once for up to 64 tokens and
// turned, so that a lane is a row, and a dot product ends without sums across lanes.

#include "kernels/isa/avx2.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

namespace kernels::avx2 {
namespace {

constexpr int kRows = 8;     // of a tile
constexpr int kTokens = 64;  // that share an unpacking
constexpr int kGroup = 4;    // tokens in registers

using Lanes = int32_t[kRows];

DOTS_AVX2_INLINE __m256i lanes(const Lanes& p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}

// out[i][r] = rows[r][i] for 8 rows of 8 words of 32 bits.
DOTS_AVX2_INLINE void turn(const __m256i* rows, Lanes* out) {
  __m256i a[8];
  DOTS_UNROLL
  for (int i = 0; i < 8; i += 4) {  // a[i + k]: word k of each lane, rows i .. i + 3
    const __m256i low01 = _mm256_unpacklo_epi32(rows[i], rows[i + 1]),
                  high01 = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    const __m256i low23 = _mm256_unpacklo_epi32(rows[i + 2], rows[i + 3]),
                  high23 = _mm256_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    a[i] = _mm256_unpacklo_epi64(low01, low23);
    a[i + 1] = _mm256_unpackhi_epi64(low01, low23);
    a[i + 2] = _mm256_unpacklo_epi64(high01, high23);
    a[i + 3] = _mm256_unpackhi_epi64(high01, high23);
  }
  DOTS_UNROLL
  for (int k = 0; k < 4; ++k) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out[k]), _mm256_permute2x128_si256(a[k], a[4 + k], 0x20));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out[4 + k]),
                       _mm256_permute2x128_si256(a[k], a[4 + k], 0x31));
  }
}

DOTS_AVX2_INLINE __m256i four_codes(const int8_t* q) {
  int value;
  std::memcpy(&value, q, sizeof value);
  return _mm256_set1_epi32(value);
}

// Adds the products of n groups of four codes of every row, times `scale`, a pair of 16-bit multipliers in each lane.
// Sums of two products of codes of six bits fit into 16 bits twice, of five bits four times, of four bits eight times.
template <class F, int kGroups, int T>
DOTS_AVX2_INLINE void add_products(const Lanes* codes, const DotBlock* x, int64_t x_stride, int first,
                                   __m256i scale, __m256i* total) {
  constexpr int kRun = F::kSigned ? 1 : std::min(kGroups, F::kBits >= 6 ? 2 : F::kBits == 5 ? 4 : 8);
  DOTS_UNROLL
  for (int i = 0; i < kGroups; i += kRun) {
    __m256i sums[T];
    DOTS_UNROLL
    for (int k = 0; k < kRun; ++k) {
      const __m256i w = lanes(codes[i + k]);
      DOTS_UNROLL
      for (int t = 0; t < T; ++t) {
        const __m256i pairs = pair_sums<F::kSigned>(w, four_codes(x[t * x_stride].q + first + 4 * (i + k)));
        sums[t] = k == 0 ? pairs : _mm256_add_epi16(sums[t], pairs);
      }
    }
    DOTS_UNROLL
    for (int t = 0; t < T; ++t) {
      total[t] = _mm256_add_epi32(total[t], _mm256_madd_epi16(sums[t], scale));
    }
  }
}

DOTS_AVX2_INLINE void store_tile(__m256 sums, int n_rows, float* out) {
  if (n_rows >= kRows) {
    _mm256_storeu_ps(out, sums);
  } else {
    alignas(32) float some[kRows];
    _mm256_store_ps(some, sums);
    std::memcpy(out, some, sizeof(float) * static_cast<size_t>(n_rows));
  }
}

// d of eight rows, from where each has it.
DOTS_AVX2_INLINE __m256 eight_factors(const TileRows<kRows>& rows, size_t at) {
  alignas(16) uint16_t d[kRows];
  for (int i = 0; i < kRows; ++i) {
    d[i] = word(rows.at[i] + at);
  }
  return _mm256_cvtph_ps(load128(d));
}

// ---- Blocks of 256 values ----

// One block of 8 rows, turned.
struct alignas(64) Panel {
  Lanes codes[64];   // four codes each, in order
  Lanes scales[16];  // of halves of parts, each twice
  Lanes pairs[8];    // minimums, else multipliers, two to a word
  float d[kRows], dmin[kRows];
};

template <class F, int k = 0>
DOTS_AVX2_INLINE void turn_codes(const TileRows<kRows>& rows, size_t at, Panel& panel) {
  __m256i part[kRows];
  DOTS_UNROLL
  for (int i = 0; i < kRows; ++i) {
    part[i] = F::template part<k>(rows.at[i] + at);
  }
  turn(part, panel.codes + 8 * k);
  if constexpr (k < 7) turn_codes<F, k + 1>(rows, at, panel);
}

template <class F>
DOTS_AVX2 void fill(const TileRows<kRows>& rows, size_t at, Panel& panel) {
  turn_codes<F>(rows, at, panel);
  __m256i scales[kRows], pairs[kRows];
  for (int i = 0; i < kRows; ++i) {
    scales[i] = F::scales(rows.at[i] + at);
    pairs[i] = scales[i];
    if constexpr (F::kMins) {
      pairs[i] = F::mins(rows.at[i] + at);
    }
  }
  alignas(32) Lanes turned[8];
  turn(scales, turned);
  for (int part = 0; part < 8; ++part) {
    const __m256i both = lanes(turned[part]);
    const __m256i low =
        _mm256_or_si256(_mm256_slli_epi32(both, 16), _mm256_and_si256(both, _mm256_set1_epi32(0xffff)));
    const __m256i high =
        _mm256_or_si256(_mm256_srli_epi32(both, 16), _mm256_andnot_si256(_mm256_set1_epi32(0xffff), both));
    _mm256_store_si256(reinterpret_cast<__m256i*>(panel.scales[2 * part]), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(panel.scales[2 * part + 1]), high);
  }
  turn(pairs, panel.pairs);
  _mm256_store_ps(panel.d, eight_factors(rows, at + F::kFactor));
  if constexpr (F::kMins) {
    _mm256_store_ps(panel.dmin, eight_factors(rows, at + F::kFactor + 2));
  }
}

template <class F, int T>
DOTS_AVX2 void add_panel(const Panel& panel, const DotBlock* x, int64_t x_stride, float (*dots)[kRows],
                         float (*mins)[kRows]) {
  __m256i total[T];
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    total[t] = _mm256_setzero_si256();
  }
  for (int half = 0; half < 16; ++half) {
    add_products<F, 4, T>(panel.codes + 4 * half, x, x_stride, 16 * half, lanes(panel.scales[half]), total);
  }
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    const DotBlock& block = x[t * x_stride];
    const __m256 da = _mm256_set1_ps(block.d[0]);
    if constexpr (F::kMins || F::kOffset >= 0) {
      __m256i other = _mm256_setzero_si256();
      for (int i = 0; i < 8; ++i) {
        int sums;
        std::memcpy(&sums, block.sums + 2 * i, sizeof sums);
        other = _mm256_add_epi32(other, _mm256_madd_epi16(lanes(panel.pairs[i]), _mm256_set1_epi32(sums)));
      }
      if constexpr (F::kOffset >= 0) {
        total[t] = _mm256_sub_epi32(total[t], _mm256_slli_epi32(other, F::kOffset));
      } else {
        const __m256 scale = _mm256_mul_ps(_mm256_load_ps(panel.dmin), da);
        _mm256_store_ps(mins[t], _mm256_fmadd_ps(_mm256_cvtepi32_ps(other), scale, _mm256_load_ps(mins[t])));
      }
    }
    const __m256 scale = _mm256_mul_ps(_mm256_load_ps(panel.d), da);
    _mm256_store_ps(dots[t], _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t]), scale, _mm256_load_ps(dots[t])));
  }
}

// ---- Blocks of 32 values ----

template <class F, int T>
DOTS_AVX2 void add_block(const Lanes* codes, __m256 d, __m256 m, const DotBlock* x, int64_t x_stride,
                         int part, float (*dots)[4][kRows], float (*mins)[4][kRows]) {
  __m256i total[T];
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    total[t] = _mm256_setzero_si256();
  }
  add_products<F, 8, T>(codes, x, x_stride, 32 * part, _mm256_set1_epi16(1), total);
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    const DotBlock& block = x[t * x_stride];
    const int sum = block.sums[2 * part] + block.sums[2 * part + 1];
    const __m256 da = _mm256_set1_ps(block.d[part]);
    if constexpr (F::kOffset >= 0) {
      total[t] = _mm256_sub_epi32(total[t], _mm256_set1_epi32(sum * (1 << F::kOffset)));
    }
    float* chain = dots[t][part % 4];
    _mm256_store_ps(
        chain, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t]), _mm256_mul_ps(d, da), _mm256_load_ps(chain)));
    if constexpr (F::kMins) {
      float* min = mins[t][part % 4];
      _mm256_store_ps(min, _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(sum)), _mm256_mul_ps(m, da),
                                           _mm256_load_ps(min)));
    }
  }
}

DOTS_AVX2_INLINE __m256 joined_chains(const float (*chains)[kRows]) {
  return _mm256_add_ps(_mm256_add_ps(_mm256_load_ps(chains[0]), _mm256_load_ps(chains[2])),
                       _mm256_add_ps(_mm256_load_ps(chains[1]), _mm256_load_ps(chains[3])));
}

}  // namespace

template <class F>
DOTS_AVX2 void tile_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                        int n_tokens, int64_t n, float* out, int64_t out_stride) {
  Panel panel;
  alignas(64) float dots[kTokens][kRows], mins[kTokens][kRows];
  for (int r = 0; r < n_rows; r += kRows) {
    const TileRows<kRows> rows(w, row_bytes, r, n_rows);
    for (int t0 = 0; t0 < n_tokens; t0 += kTokens) {
      const int n_block = std::min(kTokens, n_tokens - t0);
      std::memset(dots, 0, sizeof dots);
      std::memset(mins, 0, sizeof mins);
      for (int64_t b = 0; b < n / kDotValues; ++b) {
        fill<F>(rows, static_cast<size_t>(b) * F::kBytes, panel);
        const DotBlock* block = x + t0 * x_stride + b;
        int t = 0;
        for (; t + kGroup <= n_block; t += kGroup) {
          add_panel<F, kGroup>(panel, block + t * x_stride, x_stride, dots + t, mins + t);
        }
        for (; t < n_block; ++t) {
          add_panel<F, 1>(panel, block + t * x_stride, x_stride, dots + t, mins + t);
        }
      }
      for (int t = 0; t < n_block; ++t) {
        __m256 sums = _mm256_load_ps(dots[t]);
        if constexpr (F::kMins) {
          sums = _mm256_sub_ps(sums, _mm256_load_ps(mins[t]));
        }
        store_tile(sums, n_rows - r, out + (t0 + t) * out_stride + r);
      }
    }
  }
}

template <class F>
DOTS_AVX2 void tile_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                       int n_tokens, int64_t n, float* out, int64_t out_stride) {
  alignas(32) Lanes codes[8];
  alignas(64) float dots[kTokens][4][kRows], mins[F::kMins ? kTokens : 1][4][kRows];
  for (int r = 0; r < n_rows; r += kRows) {
    const TileRows<kRows> rows(w, row_bytes, r, n_rows);
    for (int t0 = 0; t0 < n_tokens; t0 += kTokens) {
      const int n_block = std::min(kTokens, n_tokens - t0);
      std::memset(dots, 0, sizeof dots);
      std::memset(mins, 0, sizeof mins);
      for (int64_t b = 0; b < n / 32; ++b) {
        const size_t at = static_cast<size_t>(b) * F::kBytes;
        __m256i values[kRows];
        for (int i = 0; i < kRows; ++i) {
          values[i] = F::codes(rows.at[i] + at);
        }
        turn(values, codes);
        const __m256 d = eight_factors(rows, at);
        const __m256 m = F::kMins ? eight_factors(rows, at + 2) : d;
        const DotBlock* block = x + t0 * x_stride + b / 8;
        const auto part = static_cast<int>(b % 8);
        int t = 0;
        for (; t + kGroup <= n_block; t += kGroup) {
          add_block<F, kGroup>(codes, d, m, block + t * x_stride, x_stride, part, dots + t,
                               mins + (F::kMins ? t : 0));
        }
        for (; t < n_block; ++t) {
          add_block<F, 1>(codes, d, m, block + t * x_stride, x_stride, part, dots + t,
                          mins + (F::kMins ? t : 0));
        }
      }
      for (int t = 0; t < n_block; ++t) {
        __m256 sums = joined_chains(dots[t]);
        if constexpr (F::kMins) {
          sums = _mm256_add_ps(sums, joined_chains(mins[t]));
        }
        store_tile(sums, n_rows - r, out + (t0 + t) * out_stride + r);
      }
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): names of templates
#define DOTS_TILE(tile, F) \
  template void tile<F>(const uint8_t*, size_t, int, const DotBlock*, int64_t, int, int64_t, float*, int64_t)
// NOLINTEND(bugprone-macro-parentheses)
DOTS_TILE(tile_32, Q40);
DOTS_TILE(tile_32, Q41);
DOTS_TILE(tile_32, Q50);
DOTS_TILE(tile_32, Q51);
DOTS_TILE(tile_32, Q80);
DOTS_TILE(tile_32, Iq4Nl);
DOTS_TILE(tile_256, Q2K);
DOTS_TILE(tile_256, Q3K);
DOTS_TILE(tile_256, Q4K);
DOTS_TILE(tile_256, Q5K);
DOTS_TILE(tile_256, Q6K);
DOTS_TILE(tile_256, Iq4Xs);
#undef DOTS_TILE

}  // namespace kernels::avx2

#endif  // __x86_64__
