#include <cmath>

#include "kernels/formats/tcq.h"
#include "kernels/scores.h"

namespace kernels::ref {
namespace {

// What value i of a row's unit stands for.
int integer_at(const ScoreRows& rows, int row, int unit, int i) {
  const uint8_t* codes = rows.codes + rows.codes_row() * static_cast<size_t>(row);
  if (rows.stored == ScoreCodes::kNibbles) {
    const int byte = codes[16 * unit + i % 16];
    return rows.integers[i < 16 ? byte & 15 : byte >> 4];
  }
  if (rows.stored == ScoreCodes::kStream4 || rows.stored == ScoreCodes::kStream3) {
    const int bits = rows.stored == ScoreCodes::kStream4 ? 4 : 3;
    int begin = 0;  // of the tile
    for (int end = tile_at(0, rows.head_dim); end <= kBlock * unit; end += tile_at(end, rows.head_dim)) {
      begin = end;
    }
    return rows.integers[trellis_window(codes + begin * bits / 8, bits, kBlock * unit + i - begin)];
  }
  const uint8_t* top = rows.top + rows.top_row() * static_cast<size_t>(row);
  const int pair = codes[8 * unit + i % 8] >> (i / 8 * 2) & 3, third = top[4 * unit + i / 8] >> (i % 8) & 1;
  return rows.integers[pair | third << 2];
}

float score(const ScoreRows& rows, int row, const RoundedQueries& query, int q) {
  float score = 0.0F;
  for (int unit = 0, group = 0; unit < rows.units(); ++group) {
    const int end = unit + rows.units_from(unit);
    int32_t sum = 0;
    for (; unit < end; ++unit) {
      for (int i = 0; i < kBlock; ++i) {
        sum += integer_at(rows, row, unit, i) * query.of(q)[unit * kBlock + i];
      }
    }
    const float d = scale_at(reinterpret_cast<const std::byte*>(rows.scales), rows.groups(), row, group);
    score = std::fma(static_cast<float>(sum), d * query.scales_at(q / 4, group)[q % 4], score);
  }
  return score;
}

}  // namespace

void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores, int score_stride) {
  for (int q = 0; q < query.n_q; ++q) {
    for (int row = 0; row < n; ++row) {
      scores[static_cast<size_t>(q) * static_cast<size_t>(score_stride) + static_cast<size_t>(row)] =
          score(rows, row, query, q);
    }
  }
}

}  // namespace kernels::ref
