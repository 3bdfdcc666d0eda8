#include "kernels/formats/iq4_nl.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/iq4_nl.cc"
#define KERNELS_FORMAT iq4_nl
#include "kernels/each_target.h"
#include "kernels/formats/nibbles_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::iq4_nl {
namespace {

// The code nearest to u; the upper one of two as near.
uint8_t nearest(float u) {
  int code = 0;
  for (int i = 1; i < 16; ++i) {
    code += u >= 0.5F * static_cast<float>(kValues[i - 1] + kValues[i]) ? 1 : 0;
  }
  return static_cast<uint8_t>(code);
}

}  // namespace

NibbleScales Code::quantize(const float* x, int n, uint8_t* codes) {
  constexpr uint8_t kLeast = 8;  // of magnitude 1: the nearest there is to zero
  std::fill_n(codes, n, kLeast);
  float extreme = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return {};
    }
    extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  }
  if (std::fabs(extreme) < 1e-7F) {  // fp16 has no scale as small
    return {};
  }
  const float inverse = static_cast<float>(kValues[0]) / extreme;
  // In double: the squares and cubes of large floats have no float.
  double with_x = 0.0, square = 0.0;
  for (int i = 0; i < n; ++i) {
    const double value = x[i], integer = kValues[nearest(x[i] * inverse)];
    with_x += value * value * integer * value;
    square += value * value * integer * integer;
  }
  const double d = with_x / square;
  const uint16_t scale = f16_saturated(static_cast<float>(d));
  if ((scale & 0x7fffU) == 0) {
    return {};
  }
  const float to_code =
      std::fabs(d) > double{kF16Max} ? 1.0F / std::copysign(kF16Max, static_cast<float>(d)) : inverse;
  for (int i = 0; i < n; ++i) {
    codes[i] = nearest(x[i] * to_code);
  }
  return {scale, 0};
}

void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride) {
  (head_dim % kBlock == 0 ? score_nibbles<Code> : score)(page, head_dim, slot0, n, query, n_q, scores,
                                                         score_stride);
}

}  // namespace kernels::iq4_nl

#endif  // HWY_ONCE
