#pragma once
// Integer scores: queries rounded to int8, times the integers that the codes of a KV page's rows stand for
// (KvFormat::score_rounded). Every instruction set gives the bits of kernels::ref, however rows and queries are split
// over calls.
//
// A row is units of 32 values; groups g = 0, 1, ... of whole units share an fp16 scale d(g): the tiles of a rotated
// format, else each unit by itself. A query is rounded in blocks of 128 values for tiles, of 32 for units:
// da = max|x| / 127 of a block, a = x * (127 / max|x|) to the nearest, ties to even. A block with a NaN or an infinity
// has da = NaN, and so has each score; one whose largest value is under 2^-100 is zeros.
//   sum(g) = sum over the group's values of integer * a     exact, even as a float
//   score = fma(float(sum(g)), d(g) * da(g), score)         in order of g, from 0

#include <cstddef>
#include <cstdint>

#include "kernels/formats/kv_page.h"

namespace kernels {

enum class ScoreCodes {
  kNibbles,  // 16 bytes a unit: value i < 16 low in byte i, value i + 16 high
  kThreeBits,  // TBQ3_0's two planes: 8 bytes a unit, two bits each of values b, b + 8, b + 16, b + 24; and 4 bytes
  kStream4,  // TCQ4_0's stream (formats/tcq.h): 16 bytes a unit
  kStream3,  // TCQ3_0's: 12
};

// Rows of a page that follow one another. head_dim is a multiple of 32.
struct ScoreRows {
  ScoreCodes stored = ScoreCodes::kNibbles;
  bool tiles = false;
  int head_dim = 0;
  // [16], aligned to 16; three bits use the first 8. Of a trellis [64], aligned to 64.
  const int8_t* integers = nullptr;
  const uint8_t *codes = nullptr, *top = nullptr,
                *scales = nullptr;  // of the first row; top: kThreeBits only

  int units() const { return head_dim / kBlock; }
  int groups() const { return tiles ? tile_count(head_dim) : units(); }
  // Units in the group that begins with this one.
  int units_from(int unit) const { return tiles ? tile_at(unit * kBlock, head_dim) / kBlock : 1; }
  // Bytes from a row to the next in each plane.
  size_t codes_row() const {
    switch (stored) {
      case ScoreCodes::kThreeBits:
        return static_cast<size_t>(head_dim) / 4;
      case ScoreCodes::kStream3:
        return static_cast<size_t>(head_dim) * 3 / 8;
      case ScoreCodes::kNibbles:
      case ScoreCodes::kStream4:
        break;
    }
    return static_cast<size_t>(head_dim) / 2;
  }
  size_t top_row() const { return static_cast<size_t>(head_dim) / 8; }
  size_t scales_row() const { return 2 * static_cast<size_t>(groups()); }
};

// scores[q * score_stride + t] = the score of query q and row t, for n rows and n_q queries [n_q x head_dim].
void score_rows(const ScoreRows& rows, int n, const float* query, int n_q, float* scores, int score_stride);

// Queries as the kernels read them.
struct RoundedQueries {
  static constexpr int kMost = 32;

  RoundedQueries(const ScoreRows& rows, const float* query, int n_q);
  const int8_t* of(int q) const { return codes + static_cast<size_t>(q) * stride; }
  // Of queries 4k .. 4k + 3, a group's scales da and the sums of its codes: four of each.
  const float* scales_at(int k, int group) const { return scales + 4 * (k * n_groups + group); }
  const int32_t* sums_at(int k, int group) const { return sums + 4 * (k * n_groups + group); }

  int n_q, n_groups;
  size_t stride;  // a whole number of 64 bytes
  // Past the last value up to stride, and past the last query up to a multiple of four of them, all is zero.
  alignas(64) int8_t codes[kMost * kMaxHeadDim];
  alignas(16) float scales[kMost * kMaxHeadDim / kBlock];
  alignas(16) int32_t sums[kMost * kMaxHeadDim / kBlock];
};

namespace ref {
void score_rows(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores, int score_stride);
}  // namespace ref

}  // namespace kernels
