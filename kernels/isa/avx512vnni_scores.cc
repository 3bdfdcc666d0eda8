// Integer scores with AVX-512 VNNI (streams of a trellis want VBMI too: without it they are left to AVX2). Eight rows at a time become bytes, 16 values of a row in each 128-bit lane of a
// register, so that four queries' sums with four rows end up in one register without a sum over more than four lanes.

#include "kernels/isa/avx512vnni.h"

#include "kernels/formats/tcq.h"
#include "kernels/isa/avx2.h"

#if defined(__x86_64__)

namespace kernels::avx512 {
namespace {

constexpr int kRows = 8, kQueries = 4;
constexpr size_t kUnitBytes = kRows * kBlock;
// VPDPBUSD wants codes without a sign: they are stored higher by this much.
constexpr int kOffset = 7;

// Rows r .. r + 7 of a plane; past the last row the last one is repeated.
struct EightRows {
  const uint8_t* at[kRows];
  EightRows(const uint8_t* plane, size_t row_bytes, int r, int n_rows) {
    for (int i = 0; i < kRows; ++i) {
      at[i] = plane + row_bytes * static_cast<size_t>(std::min(r + i, n_rows - 1));
    }
  }
};

// 16 bytes each of four rows; eight each, twice.
DOTS_VNNI_INLINE __m512i four_rows(const uint8_t* const* at, size_t offset) {
  __m512i v = _mm512_castsi128_si512(load128(at[0] + offset));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load128(at[1] + offset));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load128(at[2] + offset));
  return _mm512_mask_broadcast_i32x4(v, 0xf000, load128(at[3] + offset));
}
DOTS_VNNI_INLINE __m512i four_half_rows(const uint8_t* const* at, size_t offset) {
  const auto half = [&](int i) {
    int64_t bytes;
    std::memcpy(&bytes, at[i] + offset, sizeof bytes);
    return bytes;
  };
  __m512i v = _mm512_set1_epi64(half(0));
  v = _mm512_mask_set1_epi64(v, 0x0c, half(1));
  v = _mm512_mask_set1_epi64(v, 0x30, half(2));
  return _mm512_mask_set1_epi64(v, 0xc0, half(3));
}

DOTS_VNNI_INLINE void store512(uint8_t* p, __m512i v) {
  _mm512_store_si512(p, v);
}

// What eight rows stand for, as bytes without a sign: of each unit values 0-15 of rows 0-3, 16-31 of rows 0-3, then
// the same of rows 4-7. May write one unit more than there is.
DOTS_VNNI void unpack_nibbles(const ScoreRows& rows, int r, int n_rows, __m512i integers, uint8_t* out) {
  const EightRows codes(rows.codes, rows.codes_row(), r, n_rows);
  for (int unit = 0; unit < rows.units(); ++unit, out += kUnitBytes) {
    const size_t at = 16 * static_cast<size_t>(unit);
    const __m512i a = four_rows(codes.at, at), b = four_rows(codes.at + 4, at);
    store512(out, _mm512_shuffle_epi8(integers, low_nibbles(a)));
    store512(out + 64, _mm512_shuffle_epi8(integers, high_nibbles(a)));
    store512(out + 128, _mm512_shuffle_epi8(integers, low_nibbles(b)));
    store512(out + 192, _mm512_shuffle_epi8(integers, high_nibbles(b)));
  }
}

// 16 values each of four rows: two bits in each byte of `pairs`; the third in bytes kByte and kByte + 1 of each
// lane of `thirds`.
template <int kByte>
DOTS_VNNI_INLINE __m512i three_bits(__m512i integers, __m512i pairs, __m512i thirds) {
  const __m512i from = _mm512_broadcast_i32x4(_mm_setr_epi8(kByte, kByte, kByte, kByte, kByte, kByte, kByte,
                                                            kByte, kByte + 1, kByte + 1, kByte + 1, kByte + 1,
                                                            kByte + 1, kByte + 1, kByte + 1, kByte + 1));
  const __m512i bit = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201U));
  const __m512i low = _mm512_and_si512(pairs, _mm512_set1_epi8(3));
  const __mmask64 upper = _mm512_test_epi8_mask(_mm512_shuffle_epi8(thirds, from), bit);
  return _mm512_shuffle_epi8(integers, _mm512_mask_add_epi8(low, upper, low, _mm512_set1_epi8(4)));
}

// The same; two units at a time, where the second may lie beyond the head (in its page, and queries are zero there).
DOTS_VNNI void unpack_three_bits(const ScoreRows& rows, int r, int n_rows, __m512i integers, uint8_t* out) {
  const EightRows codes(rows.codes, rows.codes_row(), r, n_rows), top(rows.top, rows.top_row(), r, n_rows);
  // Values b and b + 8 of a unit have bits 0-1 and 2-3 of a byte, b + 16 and b + 24 the same four bits further up.
  const __m512i apart = _mm512_set_epi64(2, 0, 2, 0, 2, 0, 2, 0);
  for (int unit = 0; unit < rows.units(); unit += 2) {
    for (int half = 0; half < 2; ++half) {
      const __m512i v = four_rows(codes.at + 4 * half, 8 * static_cast<size_t>(unit));
      const __m512i thirds = four_half_rows(top.at + 4 * half, 4 * static_cast<size_t>(unit));
      const __m512i first = _mm512_srlv_epi64(_mm512_unpacklo_epi64(v, v), apart);
      const __m512i second = _mm512_srlv_epi64(_mm512_unpackhi_epi64(v, v), apart);
      uint8_t* to = out + 128 * half;
      store512(to, three_bits<0>(integers, first, thirds));
      store512(to + 64, three_bits<2>(integers, _mm512_srli_epi16(first, 4), thirds));
      store512(to + kUnitBytes, three_bits<4>(integers, second, thirds));
      store512(to + kUnitBytes + 64, three_bits<6>(integers, _mm512_srli_epi16(second, 4), thirds));
    }
    out += 2 * kUnitBytes;
  }
}

// A trellis' streams: 16 values at a time, eight windows in each 64 bits, their integers in one register of bytes.
template <int kBits>
DOTS_VBMI void unpack_stream(const ScoreRows& rows, int r, int n_rows, uint8_t* out) {
  constexpr int kStep = 2 * kBits;  // bytes of 16 values
  const EightRows codes(rows.codes, rows.codes_row(), r, n_rows);
  const __m512i integers =
      _mm512_xor_si512(load512(rows.integers), _mm512_set1_epi8(static_cast<char>(0x80)));
  // From the byte before the first value's on: at a tile's beginning that is a zero.
  const __m512i next =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, kBits, kBits + 1, kBits + 2, kBits + 3,
                                           kBits + 4, kBits + 5, kBits + 6, kBits + 7));
  const __m512i first = _mm512_sub_epi8(next, _mm512_set1_epi8(1));
  constexpr int kAt = 8 + kBits - kTrellisWindow;
  const __m512i shifts = _mm512_set1_epi64(_mm_cvtsi128_si64(
      _mm_setr_epi8(kAt, kAt + kBits, kAt + 2 * kBits, kAt + 3 * kBits, kAt + 4 * kBits, kAt + 5 * kBits,
                    kAt + 6 * kBits, kAt + 7 * kBits, 0, 0, 0, 0, 0, 0, 0, 0)));
  for (int unit = 0; unit < rows.units(); ++unit, out += kUnitBytes) {
    const bool begins = tile_begins(kBlock * unit, rows.head_dim);
    for (int half = 0; half < 2; ++half) {
      const bool at_first = begins && half == 0;
      const size_t at = kStep * static_cast<size_t>(2 * unit + half) - (at_first ? 0 : 1);
      const __m512i control = at_first ? first : next;
      for (int four = 0; four < 2; ++four) {
        const __m512i bytes = _mm512_shuffle_epi8(four_rows(codes.at + 4 * four, at), control);
        const __m512i windows = _mm512_multishift_epi64_epi8(shifts, bytes);
        store512(out + 128 * four + 64 * half, _mm512_permutexvar_epi8(windows, integers));
      }
    }
  }
}

DOTS_VNNI_INLINE __m128i eight_halves(const EightRows& rows, int group) {
  const auto half = [&](int i) { return word(rows.at[i] + 2 * group); };
  __m128i halves = _mm_cvtsi32_si128(half(0));
  halves = _mm_insert_epi16(halves, half(1), 1);
  halves = _mm_insert_epi16(halves, half(2), 2);
  halves = _mm_insert_epi16(halves, half(3), 3);
  halves = _mm_insert_epi16(halves, half(4), 4);
  halves = _mm_insert_epi16(halves, half(5), 5);
  halves = _mm_insert_epi16(halves, half(6), 6);
  return _mm_insert_epi16(halves, half(7), 7);
}

// The scales of eight rows: of each group those of rows 0-3, then 4-7, four times each. One and four groups in a head,
// which is 128 values, are worth a way of their own.
DOTS_VNNI void unpack_scales(const ScoreRows& rows, int r, int n_rows, float* out) {
  const int n_groups = rows.groups();
  const EightRows scales(rows.scales, rows.scales_row(), r, n_rows);
  const bool all = n_rows - r >= kRows;
  if (n_groups == 4 && all) {
    const __m512 low = _mm512_cvtph_ps(load256(scales.at[0])), high = _mm512_cvtph_ps(load256(scales.at[4]));
    for (int group = 0; group < 4; ++group, out += 32) {
      const __m512i element = _mm512_set1_epi32(group);
      _mm512_store_ps(out, _mm512_permutevar_ps(low, element));
      _mm512_store_ps(out + 16, _mm512_permutevar_ps(high, element));
    }
    return;
  }
  const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
  for (int group = 0; group < n_groups; ++group, out += 32) {
    const __m128i halves = n_groups == 1 && all ? load128(scales.at[0]) : eight_halves(scales, group);
    const __m512 d = _mm512_castps256_ps512(_mm256_cvtph_ps(halves));
    _mm512_store_ps(out, _mm512_permutexvar_ps(first, d));
    _mm512_store_ps(out + 16, _mm512_permutexvar_ps(second, d));
  }
}

// Eight rows' scores with Q <= 4 queries from q0 on; q0 is a multiple of four.
template <int Q>
DOTS_VNNI void score_eight(const ScoreRows& rows, const uint8_t* codes, const float* scales,
                           const RoundedQueries& query, int q0, int n_rows, float* out, size_t stride) {
  __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();  // lane: row, element: query
  const int8_t* a = query.of(q0);
  const size_t next = query.stride;
  const int n_units = rows.units();
  for (int unit = 0, group = 0; unit < n_units; ++group, scales += 32) {
    __m512i s[kQueries], t[kQueries];
    DOTS_UNROLL
    for (int q = 0; q < kQueries; ++q) {
      s[q] = t[q] = _mm512_setzero_si512();
    }
    const int end = unit + rows.units_from(unit);
    for (; unit < end; ++unit, codes += kUnitBytes, a += kBlock) {
      const __m512i c0 = load512(codes), c1 = load512(codes + 64), c2 = load512(codes + 128),
                    c3 = load512(codes + 192);
      DOTS_UNROLL
      for (int q = 0; q < Q; ++q) {
        const int8_t* p = a + static_cast<size_t>(q) * next;
        const __m512i first = _mm512_broadcast_i32x4(load128(p)),
                      second = _mm512_broadcast_i32x4(load128(p + 16));
        s[q] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(s[q], c0, first), c1, second);
        t[q] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(t[q], c2, first), c3, second);
      }
    }
    const __m512i offset =
        _mm512_slli_epi32(_mm512_broadcast_i32x4(load128(query.sums_at(q0 / kQueries, group))), kOffset);
    const __m512 of_query = _mm512_broadcast_f32x4(_mm_load_ps(query.scales_at(q0 / kQueries, group)));
    const __m512i sums_low = _mm512_sub_epi32(transposed_sums(s[0], s[1], s[2], s[3]), offset);
    const __m512i sums_high = _mm512_sub_epi32(transposed_sums(t[0], t[1], t[2], t[3]), offset);
    low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums_low), _mm512_mul_ps(_mm512_load_ps(scales), of_query), low);
    high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums_high),
                           _mm512_mul_ps(_mm512_load_ps(scales + 16), of_query), high);
  }
  // Queries 0 and 1, then 2 and 3: eight rows each.
  const __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const __m512 q01 = _mm512_permutex2var_ps(low, pick, high);
  const __m512 q23 = _mm512_permutex2var_ps(low, _mm512_add_epi32(pick, _mm512_set1_epi32(2)), high);
  const auto mask = static_cast<__mmask8>(n_rows >= kRows ? 0xff : (1 << n_rows) - 1);
  _mm256_mask_storeu_ps(out, mask, _mm512_castps512_ps256(q01));
  if constexpr (Q > 1) _mm256_mask_storeu_ps(out + stride, mask, _mm512_extractf32x8_ps(q01, 1));
  if constexpr (Q > 2) _mm256_mask_storeu_ps(out + 2 * stride, mask, _mm512_castps512_ps256(q23));
  if constexpr (Q > 3) _mm256_mask_storeu_ps(out + 3 * stride, mask, _mm512_extractf32x8_ps(q23, 1));
}

}  // namespace

DOTS_VNNI void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride) {
  static const bool has_vbmi = __builtin_cpu_supports("avx512vbmi");
  if (!has_vbmi && (rows.stored == ScoreCodes::kStream4 || rows.stored == ScoreCodes::kStream3)) {
    avx2::score_rows(rows, n, query, scores, score_stride);
    return;
  }
  alignas(64) uint8_t codes[kRows * kMaxHeadDim];
  alignas(64) float scales[kMaxHeadDim / kBlock * 32];
  const __m512i integers = _mm512_broadcast_i32x4(
      _mm_add_epi8(load128(rows.integers), _mm_set1_epi8(static_cast<char>(1 << kOffset))));
  const auto stride = static_cast<size_t>(score_stride);
  for (int r = 0; r < n; r += kRows) {
    switch (rows.stored) {
      case ScoreCodes::kNibbles:
        unpack_nibbles(rows, r, n, integers, codes);
        break;
      case ScoreCodes::kThreeBits:
        unpack_three_bits(rows, r, n, integers, codes);
        break;
      case ScoreCodes::kStream4:
        unpack_stream<4>(rows, r, n, codes);
        break;
      case ScoreCodes::kStream3:
        unpack_stream<3>(rows, r, n, codes);
        break;
    }
    unpack_scales(rows, r, n, scales);
    for (int q = 0; q < query.n_q; q += kQueries) {
      float* out = scores + stride * static_cast<size_t>(q) + r;
      switch (query.n_q - q) {
        case 1:
          score_eight<1>(rows, codes, scales, query, q, n - r, out, stride);
          break;
        case 2:
          score_eight<2>(rows, codes, scales, query, q, n - r, out, stride);
          break;
        case 3:
          score_eight<3>(rows, codes, scales, query, q, n - r, out, stride);
          break;
        default:
          score_eight<4>(rows, codes, scales, query, q, n - r, out, stride);
      }
    }
  }
}

}  // namespace kernels::avx512

#endif  // __x86_64__
