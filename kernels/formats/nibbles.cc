#include "kernels/formats/nibbles.h"

#include <cmath>

namespace kernels {

NibbleScales round_about_zero(const float* x, int n, int half, uint8_t* codes) {
  std::fill_n(codes, n, static_cast<uint8_t>(half));
  float extreme = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return {};
    }
    extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  }
  const float d = extreme / static_cast<float>(-half);
  const uint16_t scale = f16_saturated(d);
  if ((scale & 0x7fffU) == 0) {
    return {};
  }
  const float inverse = std::fabs(d) > kF16Max ? 1.0F / std::copysign(kF16Max, d) : 1.0F / d;
  const float zero = static_cast<float>(half) + 0.5F, most = static_cast<float>(2 * half - 1);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(std::clamp(x[i] * inverse + zero, 0.0F, most));
  }
  return {scale, 0};
}

NibbleScales round_above_least(const float* x, int n, int most, uint8_t* codes) {
  std::fill_n(codes, n, static_cast<uint8_t>(0));
  float least = x[0], largest = x[0];
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return {};
    }
    least = std::min(least, x[i]);
    largest = std::max(largest, x[i]);
  }
  // Where the least value has no fp16, codes count from the one that is stored.
  const float from = std::clamp(least, -kF16Max, kF16Max);
  const float d = std::min(std::max(largest - from, 0.0F) / static_cast<float>(most), kF16Max);
  NibbleScales scales{f16_from_f32(d), f16_from_f32(from)};
  if (scales.d == 0) {
    return scales;
  }
  const float inverse = 1.0F / d;
  for (int i = 0; i < n; ++i) {
    codes[i] =
        static_cast<uint8_t>(std::clamp((x[i] - from) * inverse + 0.5F, 0.0F, static_cast<float>(most)));
  }
  return scales;
}

}  // namespace kernels
