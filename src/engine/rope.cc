#include "src/engine/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace engine {
namespace {

// The pair that turns b times within the original context (YaRN, arXiv 2309.00071, section 3.2).
double yarn_pair(const HParams& hp, double turns) {
  return hp.n_rot * std::log(hp.n_ctx_orig / (2 * std::numbers::pi * turns)) /
         (2 * std::log(hp.rope_freq_base));
}

}  // namespace

void RopeTable::fill(int pos, float* cos_sin) const {
  for (size_t i = 0; i < radians.size(); ++i) {
    const double angle = pos * radians[i];
    cos_sin[2 * i] = static_cast<float>(std::cos(angle) * magnitude);
    cos_sin[2 * i + 1] = static_cast<float>(std::sin(angle) * magnitude);
  }
}

RopeTable make_rope_table(const HParams& hp, const float* factors) {
  RopeTable table;
  const double low = std::max(0.0, std::floor(yarn_pair(hp, hp.yarn_beta_fast)));
  const double high = std::min(hp.n_rot - 1.0, std::ceil(yarn_pair(hp, hp.yarn_beta_slow)));
  for (int i = 0; i < hp.n_rot / 2; ++i) {
    const double own = std::pow(double{hp.rope_freq_base}, -2.0 * i / hp.n_rot) /
                       (factors == nullptr ? 1.0 : double{factors[i]});
    const double stretched = own * hp.rope_freq_scale;
    const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
    const double keep = (1 - ramp) * hp.yarn_ext_factor;
    table.radians.push_back(stretched * (1 - keep) + own * keep);
  }
  table.magnitude = hp.rope_attn_factor;
  if (hp.yarn_ext_factor != 0) {
    table.magnitude *= 1 + 0.1 * std::log(1 / double{hp.rope_freq_scale});
  }
  return table;
}

}  // namespace engine
