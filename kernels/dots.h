#pragma once
// Integer dot products of quantized weights with activations that were rounded to int8 once per vector: what
// decode and prefill run on unless exact activations were asked for (ops.h has those). Every instruction set
// gives the bits of kernels::ref, however rows and tokens are split over calls.
//
// The value of a dot product, for a weight row of blocks b = 0, 1, ... and a vector of codes a with scales da:
//   sum(b) = sum over the block's values of multiplier * code * a        exact, in integers
//   min(b) = sum over its halves of parts of minimum * (sum of a)        exact; formats without minimums: none
//   dots = fma(float(sum(b)), d(b) * da(b), dots), mins = fma(float(min(b)), dmin(b) * da(b), mins)   in order of b
//   result = dots - mins
// with d, dmin, multipliers, minimums and codes as in formats/parts.h. Blocks of 32 values have four chains of each,
// b % 4, added as (0 + 2) + (1 + 3). All sums over a block fit into 32 bits.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.h"

namespace kernels {

inline constexpr int kDotValues = 256;

// 256 activations; the last block of a vector is filled up with zeros.
struct alignas(64) DotBlock {
  int8_t q[kDotValues];
  int16_t sums[kDotValues / 16];  // of 16 codes each
  float d[kDotValues / 32];       // value = d[i / 32] * q[i]
};
static_assert(sizeof(DotBlock) == 320);

inline int64_t dot_blocks(int64_t n) {
  return (n + kDotValues - 1) / kDotValues;
}

// How many activations share a scale in dots with this format: 32 or 256, the size of its blocks. 0: it has no
// integer dots, here as on any machine.
int dot_group(const WeightFormat& format);

// Rounds n values (a multiple of 32) into dot_blocks(n) blocks: d = max|x| / 127 of each group of 32 or 256,
// q = x * (127 / max|x|) to the nearest, ties to even. A group with a NaN or an infinity has d = NaN, and so has
// what is multiplied with it; one whose largest value is under 2^-100 is zeros.
void quantize_dots(const float* x, int64_t n, int group, DotBlock* out);

// y[t * y_stride + r] = <w row r, x + t * x_stride> for r in [row0, row1), t in [0, n_tokens); x quantized in groups
// of dot_group(*w.format), which is not 0; x_stride in blocks. Ranges of a multiple of 16 rows are fastest.
void matmul(const Matrix& w, int64_t row0, int64_t row1, const DotBlock* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride);

// Name of the instruction set they run on ("avx512vnni", "avx2", "neon_dotprod"); "scalar", which is the reference,
// where the machine has none of them: dots in floats are faster there.
const char* dots_isa();
// All that this machine can run, best first, "scalar" last.
std::vector<std::string> dots_isas();
// As force_float_isa (isa.h), for integer dots.
bool force_dots_isa(std::string_view name);

namespace ref {
void quantize_dots(const float* x, int64_t n, int group, DotBlock* out);
void matmul(const Matrix& w, int64_t row0, int64_t row1, const DotBlock* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride);
}  // namespace ref

}  // namespace kernels
