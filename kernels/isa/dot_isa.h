#pragma once
// One instruction set's integer dots (kernels/dots.h): a table of the formats it is fast at. A format without a
// row runs on the reference.

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/dots.h"

namespace kernels {

// Fewer tokens than this are multiplied one by one: a tile's preparations would cost more.
inline constexpr int kTileFrom = 6;

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
};

#if defined(__x86_64__)
extern const DotIsa kAvx512Vnni, kAvx2;
#elif defined(__aarch64__)
extern const DotIsa kNeonDotprod;
#endif

}  // namespace kernels
