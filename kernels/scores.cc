#include "kernels/scores.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/isa/dot_isa.h"
#include "src/base/check.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/scores.cc"
#include "kernels/each_target.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// The bits of the largest |x| of n values: floats without their sign are ordered as integers, NaNs last.
HWY_INLINE int32_t most_bits(const float* x, int n) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  auto most = hn::Zero(di);
  for (int i = 0; i < n; i += kLanes) {
    most = hn::Max(most, hn::And(hn::BitCast(di, hn::LoadU(df, x + i)), hn::Set(di, 0x7fffffff)));
  }
  return hn::GetLane(hn::MaxOfLanes(di, most));
}

// Rounds n values, a multiple of 32, times `inverse`; returns the sum of the codes.
HWY_INLINE int32_t round_to_codes(const float* x, int n, float inverse, int8_t* codes) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<int8_t, FloatTag> d8;
  auto sum = hn::Zero(di);
  for (int i = 0; i < n; i += kLanes) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), hn::Set(df, inverse)));
    hn::StoreU(hn::DemoteTo(d8, rounded), d8, codes + i);
    sum = hn::Add(sum, rounded);
  }
  return hn::GetLane(hn::SumOfLanes(di, sum));
}

void round_query(const ScoreRows& rows, const float* x, int8_t* codes, float* scales, int32_t* sums) {
  constexpr int32_t kInfinity = 0x7f800000, kTiny = 27 << 23;  // 2^-100
  const int block = rows.tiles ? kMaxTile : kBlock;
  int unit = 0, group = 0;
  for (int begin = 0; begin < rows.head_dim; begin += block) {
    const int end = std::min(begin + block, rows.head_dim);
    const int32_t bits = most_bits(x + begin, end - begin);
    const bool rounded = bits >= kTiny && bits < kInfinity;
    float most = 0.0F;
    std::memcpy(&most, &bits, sizeof most);
    const float scale = rounded        ? most / 127.0F
                        : bits < kTiny ? 0.0F
                                       : std::numeric_limits<float>::quiet_NaN();
    for (; unit * kBlock < end; ++group) {  // groups do not cross blocks
      const int n = kBlock * rows.units_from(unit), at = unit * kBlock;
      scales[4 * group] = scale;
      sums[4 * group] = 0;
      if (rounded) {
        sums[4 * group] = round_to_codes(x + at, n, 127.0F / most, codes + at);
      } else {
        std::fill_n(codes + at, n, static_cast<int8_t>(0));
      }
      unit += n / kBlock;
    }
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(round_query);

// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): the arrays have room for far more than most queries fill
RoundedQueries::RoundedQueries(const ScoreRows& rows, const float* query, int n)
    : n_q(n), n_groups(rows.groups()), stride((static_cast<size_t>(rows.head_dim) + 63) / 64 * 64) {
  AR_CHECK(n_q <= kMost && rows.head_dim % kBlock == 0, "queries in whole units");
  check_head_dim(rows.head_dim);
  const auto n_values = static_cast<size_t>(rows.head_dim);
  for (int q = 0; q < (n_q + 3) / 4 * 4; ++q) {
    int8_t* row = codes + static_cast<size_t>(q) * stride;
    const int first = 4 * (q / 4) * n_groups + q % 4;
    if (q < n_q) {
      HWY_DYNAMIC_DISPATCH(round_query)
      (rows, query + static_cast<size_t>(q) * n_values, row, scales + first, sums + first);
      std::fill(row + n_values, row + stride, static_cast<int8_t>(0));
      continue;
    }
    std::fill_n(row, stride, static_cast<int8_t>(0));
    for (int group = 0; group < n_groups; ++group) {
      scales[first + 4 * group] = 0.0F;
      sums[first + 4 * group] = 0;
    }
  }
}

void score_rows(const ScoreRows& rows, int n, const float* query, int n_q, float* scores, int score_stride) {
  const DotIsa& isa = chosen_dot_isa();
  for (int q = 0; q < n_q && n > 0; q += RoundedQueries::kMost) {
    const RoundedQueries rounded(rows, query + static_cast<size_t>(q) * static_cast<size_t>(rows.head_dim),
                                 std::min(RoundedQueries::kMost, n_q - q));
    float* out = scores + static_cast<size_t>(q) * static_cast<size_t>(score_stride);
    (isa.scores == nullptr ? ref::score_rows : isa.scores)(rows, n, rounded, out, score_stride);
  }
}

}  // namespace kernels

#endif  // HWY_ONCE
