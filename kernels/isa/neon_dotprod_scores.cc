// Integer scores with NEON's SDOT: four rows at a time become bytes, then each query passes over them.

#include "kernels/isa/dot_isa.h"

#if defined(__aarch64__)

#include "kernels/formats/tcq.h"
#include "kernels/isa/neon_dotprod.h"

namespace kernels::neon {
namespace {

constexpr int kRows = 4;

// 16 values: two bits each, shifted down in `pairs`, the third in the bits of two bytes.
DOTS_NEON_INLINE int8x16_t three_bits(int8x16_t integers, uint8x16_t pairs, const uint8_t* thirds) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U));
  const uint8x16_t bits = vcombine_u8(vdup_n_u8(thirds[0]), vdup_n_u8(thirds[1]));
  return vqtbl1q_s8(integers, vorrq_u8(vandq_u8(pairs, vdupq_n_u8(3)), where(bits, bit, 4)));
}

// 16 values of a trellis' stream: the two bytes each window lies in, moved to their top and down.
template <int kBits>
DOTS_NEON_INLINE int8x16_t stream_values(int8x16x4_t integers, const uint8_t* block, bool begins) {
  constexpr const TrellisSpread<kBits>& kSpread = kTrellisSpread<kBits>;
  const uint8x16_t bytes = vld1q_u8(begins ? block : block - 1);
  const uint8_t* control = begins ? kSpread.first : kSpread.next;
  const uint16x8_t low = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(control)));
  const uint16x8_t high = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(control + 16)));
  const auto windows = [](uint16x8_t pairs, const uint16_t* factors) DOTS_NEON {
    return vmovn_u16(vshrq_n_u16(vmulq_u16(pairs, vld1q_u16(factors)), 16 - kTrellisWindow));
  };
  return vqtbl4q_s8(integers, vcombine_u8(windows(low, kSpread.factors), windows(high, kSpread.factors + 8)));
}
template <int kBits>
DOTS_NEON_INLINE Bytes unit_of_stream(const ScoreRows& rows, const uint8_t* codes, size_t unit) {
  const int8x16x4_t integers = vld1q_s8_x4(rows.integers);
  const uint8_t* block = codes + 4 * kBits * unit;
  const bool begins = tile_begins(kBlock * static_cast<int>(unit), rows.head_dim);
  return {stream_values<kBits>(integers, block, begins),
          stream_values<kBits>(integers, block + 2 * kBits, false)};
}

// A unit's values as the row's codes say.
DOTS_NEON_INLINE Bytes unit_of(const ScoreRows& rows, size_t row, size_t unit, int8x16_t integers) {
  const uint8_t* codes = rows.codes + row * rows.codes_row();
  if (rows.stored == ScoreCodes::kNibbles) {
    const Bytes index = nibbles(vld1q_u8(codes + 16 * unit));
    return {vqtbl1q_s8(integers, vreinterpretq_u8_s8(index.low)),
            vqtbl1q_s8(integers, vreinterpretq_u8_s8(index.high))};
  }
  if (rows.stored == ScoreCodes::kStream4) return unit_of_stream<4>(rows, codes, unit);
  if (rows.stored == ScoreCodes::kStream3) return unit_of_stream<3>(rows, codes, unit);
  const uint8_t* top = rows.top + row * rows.top_row() + 4 * unit;
  const uint8x8_t once = vld1_u8(codes + 8 * unit);
  const uint8x16_t pairs = vcombine_u8(once, vshr_n_u8(once, 2));
  return {three_bits(integers, pairs, top), three_bits(integers, vshrq_n_u8(pairs, 4), top + 2)};
}

}  // namespace

DOTS_NEON void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                          int score_stride) {
  Bytes codes[kRows * kMaxHeadDim / kBlock];
  const int8x16_t integers = vld1q_s8(rows.integers);
  const int n_units = rows.units();
  for (int r = 0; r < n; r += kRows) {
    const uint8_t* scales[kRows];
    for (int i = 0; i < kRows; ++i) {
      const auto row = static_cast<size_t>(std::min(r + i, n - 1));  // past the last row it is repeated
      scales[i] = rows.scales + row * rows.scales_row();
      for (int unit = 0; unit < n_units; ++unit) {
        codes[kRows * unit + i] = unit_of(rows, row, static_cast<size_t>(unit), integers);
      }
    }
    for (int q = 0; q < query.n_q; ++q) {
      const int8_t* a = query.of(q);
      float32x4_t score = vdupq_n_f32(0);
      for (int unit = 0, group = 0; unit < n_units; ++group) {
        int32x4_t s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0;
        const int end = unit + rows.units_from(unit);
        for (; unit < end; ++unit) {
          const Bytes* c = codes + kRows * unit;
          const int8x16_t low = vld1q_s8(a + kBlock * unit), high = vld1q_s8(a + kBlock * unit + 16);
          s0 = add_dots(add_dots(s0, c[0].low, low), c[0].high, high);
          s1 = add_dots(add_dots(s1, c[1].low, low), c[1].high, high);
          s2 = add_dots(add_dots(s2, c[2].low, low), c[2].high, high);
          s3 = add_dots(add_dots(s3, c[3].low, low), c[3].high, high);
        }
        const float32x4_t d = factors(scales[0] + 2 * group, scales[1] + 2 * group, scales[2] + 2 * group,
                                      scales[3] + 2 * group);
        score = vfmaq_f32(score, vcvtq_f32_s32(row_sums(s0, s1, s2, s3)),
                          vmulq_n_f32(d, query.scales_at(q / 4, group)[q % 4]));
      }
      store_rows(score, n - r, scores + static_cast<size_t>(q) * static_cast<size_t>(score_stride) + r);
    }
  }
}

}  // namespace kernels::neon

#endif  // __aarch64__
