// Integer dots of several activation vectors with AVX-512 and VNNI: the codes of 16 rows are unpacked once for up to
// 64 tokens and turned, so that a lane is a row, and a dot product ends without sums across lanes.

#include "kernels/isa/avx512vnni.h"

#if defined(__x86_64__)

#include <algorithm>
#include <type_traits>

namespace kernels::avx512 {
namespace {

constexpr int kRows = 16;    // of a tile
constexpr int kTokens = 64;  // that share an unpacking
constexpr int kGroup = 8;    // tokens in registers

using Lanes = int32_t[kRows];

// out[i][r] = rows[r][i] for 16 rows of 16 words of 32 bits.
DOTS_VNNI_INLINE void turn(const __m512i* rows, Lanes* out) {
  __m512i a[16], b[16];
  DOTS_UNROLL
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  DOTS_UNROLL
  for (int i = 0; i < 16; i += 4) {  // b[i + k]: word k of each lane, rows i .. i + 3
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  DOTS_UNROLL
  for (int k = 0; k < 4; ++k) {
    const __m512i low01 = _mm512_shuffle_i32x4(b[k], b[4 + k], 0x88),
                  low23 = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0x88);
    const __m512i high01 = _mm512_shuffle_i32x4(b[k], b[4 + k], 0xdd),
                  high23 = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0xdd);
    _mm512_store_si512(out[k], _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_store_si512(out[8 + k], _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_store_si512(out[4 + k], _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_store_si512(out[12 + k], _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

DOTS_VNNI_INLINE __m512i four_codes(const int8_t* q) {
  int value;
  std::memcpy(&value, q, sizeof value);
  return _mm512_set1_epi32(value);
}

DOTS_VNNI_INLINE void store_tile(__m512 sums, int n_rows, float* out) {
  _mm512_mask_storeu_ps(out, n_rows >= kRows ? 0xffff : static_cast<__mmask16>((1 << n_rows) - 1), sums);
}

// ---- Blocks of 256 values ----

// One block of 16 rows, turned.
struct alignas(64) Panel {
  Lanes codes[64];   // four codes each, in the order of codes()
  Lanes scales[16];  // of halves of parts; where a part has one: of the 8 parts
  Lanes pairs[16];   // minimums, else multipliers, two to a word; the upper eight are unused
  float d[kRows], dmin[kRows];
};

template <class F>
constexpr bool has_part_scales() {
  return std::is_same_v<F, Q4K> || std::is_same_v<F, Q5K> || F::kWide;
}

// Where codes() has half h of the parts.
struct Slots {
  int of[16];
};
constexpr Slots slots_of(const Halves& halves) {
  Slots slots{};
  for (int i = 0; i < 16; ++i) {
    slots.of[halves.at[i]] = i;
  }
  return slots;
}
template <class F>
inline constexpr Slots kSlots = slots_of(F::kHalves);

template <class F>
DOTS_VNNI void fill(const TileRows<kRows>& rows, size_t at, Panel& panel) {
  __m512i codes[4][kRows], scales[kRows], pairs[kRows];
  alignas(32) uint16_t d[kRows], dmin[kRows];
  for (int i = 0; i < kRows; ++i) {
    const uint8_t* p = rows.at[i] + at;
    const Codes c = F::codes(p);
    codes[0][i] = c.c0;
    codes[1][i] = c.c1;
    codes[2][i] = c.c2;
    codes[3][i] = c.c3;
    __m256i s = F::scales(p);
    if constexpr (F::kWide) {
      scales[i] = _mm512_zextsi256_si512(s);
      s = _mm256_or_si256(_mm256_slli_epi32(s, 16), _mm256_and_si256(s, _mm256_set1_epi32(0xffff)));
    } else if constexpr (has_part_scales<F>()) {
      scales[i] = _mm512_zextsi256_si512(_mm256_srli_epi32(s, 16));  // of two equal ones, without a sign
    } else {
      scales[i] = _mm512_cvtepi16_epi32(s);
    }
    if constexpr (F::kMins) {
      s = F::mins(p);
      dmin[i] = word(p + F::kFactor + 2);
    }
    pairs[i] = _mm512_zextsi256_si512(s);
    d[i] = word(p + F::kFactor);
  }
  for (int k = 0; k < 4; ++k) {
    turn(codes[k], panel.codes + 16 * k);
  }
  turn(scales, panel.scales);
  turn(pairs, panel.pairs);
  _mm512_store_ps(panel.d, _mm512_cvtph_ps(load256(d)));
  if constexpr (F::kMins) {
    _mm512_store_ps(panel.dmin, _mm512_cvtph_ps(load256(dmin)));
  }
}

template <class F, int T>
DOTS_VNNI void add_panel(const Panel& panel, const DotBlock* x, int64_t x_stride, float (*dots)[kRows],
                         float (*mins)[kRows]) {
  constexpr int kStep = has_part_scales<F>() ? 2 : 1;  // halves with one multiplier
  __m512i total[T], other[T];
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    total[t] = _mm512_setzero_si512();
    other[t] = _mm512_setzero_si512();
  }
  for (int half = 0; half < 16; half += kStep) {
    __m512i acc[T];
    DOTS_UNROLL
    for (int t = 0; t < T; ++t) {
      acc[t] = _mm512_setzero_si512();
    }
    DOTS_UNROLL
    for (int i = 0; i < 4 * kStep; ++i) {
      const __m512i codes = _mm512_load_si512(panel.codes[4 * kSlots<F>.of[half + i / 4] + i % 4]);
      DOTS_UNROLL
      for (int t = 0; t < T; ++t) {
        acc[t] = _mm512_dpbusd_epi32(acc[t], codes, four_codes(x[t * x_stride].q + 16 * half + 4 * i));
      }
    }
    const __m512i scale = _mm512_load_si512(panel.scales[half / kStep]);
    DOTS_UNROLL
    for (int t = 0; t < T; ++t) {
      total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(acc[t], scale));
    }
  }
  if constexpr (F::kMins || F::kOffset >= 0) {
    DOTS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const __m512i pair = _mm512_load_si512(panel.pairs[i]);
      DOTS_UNROLL
      for (int t = 0; t < T; ++t) {
        int sums;
        std::memcpy(&sums, x[t * x_stride].sums + 2 * i, sizeof sums);
        other[t] = _mm512_dpwssd_epi32(other[t], pair, _mm512_set1_epi32(sums));
      }
    }
  }
  DOTS_UNROLL
  for (int t = 0; t < T; ++t) {
    const __m512 da = _mm512_set1_ps(x[t * x_stride].d[0]);
    if constexpr (F::kOffset >= 0) {
      total[t] = _mm512_sub_epi32(total[t], _mm512_slli_epi32(other[t], F::kOffset));
    }
    _mm512_store_ps(dots[t],
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[t]), _mm512_mul_ps(_mm512_load_ps(panel.d), da),
                                    _mm512_load_ps(dots[t])));
    if constexpr (F::kMins) {
      _mm512_store_ps(
          mins[t], _mm512_fmadd_ps(_mm512_cvtepi32_ps(other[t]),
                                   _mm512_mul_ps(_mm512_load_ps(panel.dmin), da), _mm512_load_ps(mins[t])));
    }
  }
}

// ---- Blocks of 32 values, four at a time ----

struct alignas(64) Panel32 {
  Lanes codes[2][16];  // four codes each: of the blocks' first halves, then of their second ones
  float d[4][kRows], m[4][kRows];
};

template <class F>
DOTS_VNNI void fill_32(const TileRows<kRows>& rows, size_t at, Panel32& panel) {
  __m512i first[kRows], second[kRows];
  alignas(32) uint16_t d[4][kRows], m[4][kRows];
  for (int i = 0; i < kRows; ++i) {
    const uint8_t* p = rows.at[i] + at;
    const HalfCodes c = F::codes(p);
    first[i] = c.first;
    second[i] = c.second;
    for (int k = 0; k < 4; ++k) {
      d[k][i] = word(p + k * F::kBytes);
      if constexpr (F::kMins) {
        m[k][i] = word(p + k * F::kBytes + 2);
      }
    }
  }
  turn(first, panel.codes[0]);
  turn(second, panel.codes[1]);
  for (int k = 0; k < 4; ++k) {
    _mm512_store_ps(panel.d[k], _mm512_cvtph_ps(load256(d[k])));
    if constexpr (F::kMins) {
      _mm512_store_ps(panel.m[k], _mm512_cvtph_ps(load256(m[k])));
    }
  }
}

// `part`: the first of four of the activations' blocks of 32.
template <class F, int T>
DOTS_VNNI void add_panel_32(const Panel32& panel, const DotBlock* x, int64_t x_stride, int part,
                            float (*dots)[4][kRows], float (*mins)[4][kRows]) {
  for (int k = 0; k < 4; ++k, ++part) {
    __m512i acc[T];
    int sums[T];
    DOTS_UNROLL
    for (int t = 0; t < T; ++t) {
      const DotBlock& block = x[t * x_stride];
      sums[t] = block.sums[2 * part] + block.sums[2 * part + 1];
      acc[t] = F::kOffset >= 0 ? _mm512_set1_epi32(-sums[t] * (1 << std::max(F::kOffset, 0)))
                               : _mm512_setzero_si512();
    }
    DOTS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const __m512i codes = _mm512_load_si512(panel.codes[i / 4][4 * k + i % 4]);
      DOTS_UNROLL
      for (int t = 0; t < T; ++t) {
        acc[t] = _mm512_dpbusd_epi32(acc[t], codes, four_codes(x[t * x_stride].q + 32 * part + 4 * i));
      }
    }
    const __m512 d = _mm512_load_ps(panel.d[k]);
    DOTS_UNROLL
    for (int t = 0; t < T; ++t) {
      const __m512 da = _mm512_set1_ps(x[t * x_stride].d[part]);
      float* chain = dots[t][k];
      _mm512_store_ps(
          chain, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t]), _mm512_mul_ps(d, da), _mm512_load_ps(chain)));
      if constexpr (F::kMins) {
        float* min = mins[t][k];
        const __m512 m = _mm512_mul_ps(_mm512_load_ps(panel.m[k]), da);
        _mm512_store_ps(min,
                        _mm512_fmadd_ps(_mm512_set1_ps(static_cast<float>(sums[t])), m, _mm512_load_ps(min)));
      }
    }
  }
}

DOTS_VNNI_INLINE __m512 joined_chains(const float (*chains)[kRows]) {
  return _mm512_add_ps(_mm512_add_ps(_mm512_load_ps(chains[0]), _mm512_load_ps(chains[2])),
                       _mm512_add_ps(_mm512_load_ps(chains[1]), _mm512_load_ps(chains[3])));
}

}  // namespace

template <class F>
DOTS_VNNI void tile_256(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
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
        __m512 sums = _mm512_load_ps(dots[t]);
        if constexpr (F::kMins) {
          sums = _mm512_sub_ps(sums, _mm512_load_ps(mins[t]));
        }
        store_tile(sums, n_rows - r, out + (t0 + t) * out_stride + r);
      }
    }
  }
}

template <class F>
DOTS_VNNI void tile_32(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
                       int n_tokens, int64_t n, float* out, int64_t out_stride) {
  constexpr size_t kStep = 4 * F::kBytes;
  Panel32 panel;
  alignas(64) float dots[kTokens][4][kRows], mins[F::kMins ? kTokens : 1][4][kRows];
  for (int r = 0; r < n_rows; r += kRows) {
    TileRows<kRows> rows(w, row_bytes, r, n_rows);
    for (int t0 = 0; t0 < n_tokens; t0 += kTokens) {
      const int n_block = std::min(kTokens, n_tokens - t0);
      std::memset(dots, 0, sizeof dots);
      std::memset(mins, 0, sizeof mins);
      for (int64_t i = 0; i < n; i += 128) {
        const size_t at = static_cast<size_t>(i / 128) * kStep;
        if (n - i >= 128) {
          fill_32<F>(rows, at, panel);
        } else {  // up to three blocks, with zeros after them
          uint8_t rest[kRows][kStep] = {};
          TileRows<kRows> copies = rows;
          for (int k = 0; k < kRows; ++k) {
            std::memcpy(rest[k], rows.at[k] + at, static_cast<size_t>((n - i) / 32) * F::kBytes);
            copies.at[k] = rest[k];
          }
          fill_32<F>(copies, 0, panel);
        }
        const DotBlock* block = x + t0 * x_stride + i / kDotValues;
        const auto part = static_cast<int>(i % kDotValues / 32);
        int t = 0;
        for (; t + kGroup <= n_block; t += kGroup) {
          add_panel_32<F, kGroup>(panel, block + t * x_stride, x_stride, part, dots + t,
                                  mins + (F::kMins ? t : 0));
        }
        for (; t < n_block; ++t) {
          add_panel_32<F, 1>(panel, block + t * x_stride, x_stride, part, dots + t,
                             mins + (F::kMins ? t : 0));
        }
      }
      for (int t = 0; t < n_block; ++t) {
        __m512 sums = joined_chains(dots[t]);
        if constexpr (F::kMins) {
          sums = _mm512_add_ps(sums, joined_chains(mins[t]));
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

}  // namespace kernels::avx512

#endif  // __x86_64__
