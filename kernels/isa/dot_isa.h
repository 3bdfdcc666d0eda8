#pragma once
// One instruction set's integer dots (kernels/dots.h): a table of the formats it is fast at. A format without a
// row runs on the reference. Its integer scores (kernels/scores.h) are one function.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/dots.h"
#include "kernels/scores.h"

namespace kernels {

// Fewer tokens than this are multiplied one by one: a tile's preparations would cost more.
inline constexpr int kTileFrom = 6;

inline uint16_t word(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Rows r .. r + 3; past the last row the last one is repeated, and its sums dropped.
struct FourRows {
  FourRows(const uint8_t* w, size_t row_bytes, int r, int n_rows)
      : p0(w + static_cast<size_t>(r) * row_bytes),
        p1(r + 1 < n_rows ? p0 + row_bytes : p0),
        p2(r + 2 < n_rows ? p1 + row_bytes : p1),
        p3(r + 3 < n_rows ? p2 + row_bytes : p2) {}
  const uint8_t *p0, *p1, *p2, *p3;
};

// The rows of a tile; past the last one it is repeated, and what comes of that is dropped.
template <int kRows>
struct TileRows {
  const uint8_t* at[kRows];
  TileRows(const uint8_t* w, size_t row_bytes, int r, int n_rows) {
    for (int i = 0; i < kRows; ++i) {
      at[i] = w + static_cast<size_t>(std::min(r + i, n_rows - 1)) * row_bytes;
    }
  }
};

struct DotKernel {
  uint32_t ggml_type;
  // out[i] = <row i, x> for n_rows rows row_bytes apart, of n values.
  void (*rows)(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t n, float* out);
  // The same for n_tokens vectors x_stride blocks apart, into out[t * out_stride + i]. nullptr: rows() for each.
  void (*tile)(const uint8_t* w, size_t row_bytes, int n_rows, const DotBlock* x, int64_t x_stride,
               int n_tokens, int64_t n, float* out, int64_t out_stride) = nullptr;
};

struct DotIsa {
  const char* name;
  bool (*usable)();
  std::span<const DotKernel> kernels;
  // As ref::score_rows, for n > 0 rows. nullptr: the reference.
  void (*scores)(const ScoreRows& rows, int n, const RoundedQueries& query, float* scores,
                 int score_stride) = nullptr;
};
// The one in use.
const DotIsa& chosen_dot_isa();

#if defined(__x86_64__)
extern const DotIsa kAvx512Vnni, kAvx2;
#elif defined(__aarch64__)
extern const DotIsa kNeonDotprod;
#endif

}  // namespace kernels
