#include "kernels/dots_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/formats/formats.h"
#include "kernels/formats/iq4_nl.h"
#include "kernels/formats/iq4_xs.h"
#include "kernels/formats/parts.h"
#include "kernels/formats/q2_k.h"
#include "kernels/formats/q3_k.h"
#include "kernels/formats/q4_0.h"
#include "kernels/formats/q4_1.h"
#include "kernels/formats/q4_k.h"
#include "kernels/formats/q5_0.h"
#include "kernels/formats/q5_1.h"
#include "kernels/formats/q5_k.h"
#include "kernels/formats/q6_k.h"

namespace kernels::ref {
namespace {

// Q8_0 as parts.
struct Q8Layout {
  static constexpr int kBlockValues = 32, kBlockBytes = 34, kScaleAt = 0, kMinAt = -1;
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    for (int i = 0; i < kPart; ++i) {
      out[i] = static_cast<int8_t>(block[2 + i]);
    }
  }
};
template <class Layout>
float dot(const uint8_t* row, const DotBlock* x, int64_t n) {
  constexpr bool kMins = Layout::kMinAt >= 0;
  constexpr int kChains = Layout::kBlockValues == kDotValues ? 1 : 4;
  float dots[4] = {}, mins[4] = {};
  for (int64_t b = 0, i = 0; i < n; ++b, i += Layout::kBlockValues, row += Layout::kBlockBytes) {
    const DotBlock& a = x[i / kDotValues];
    const auto first = static_cast<int>(i % kDotValues);
    int32_t sum = 0, min = 0;
    for (int part = 0; part < Layout::kBlockValues / kPart; ++part) {
      const Multipliers m = Layout::multipliers(row, part);
      const int at = first + part * kPart;
      int8_t codes[kPart];
      Layout::codes(row, part, codes);
      for (int k = 0; k < kPart; ++k) {
        sum += m.scale[k / 16] * codes[k] * a.q[at + k];
      }
      min += m.min[0] * a.sums[at / 16] + m.min[1] * a.sums[at / 16 + 1];
    }
    const float da = a.d[first / 32];
    const auto chain = static_cast<size_t>(b % kChains);
    dots[chain] =
        std::fma(static_cast<float>(sum), f32_from_f16(u16_at(row + Layout::kScaleAt)) * da, dots[chain]);
    if constexpr (kMins) {
      mins[chain] =
          std::fma(static_cast<float>(min), f32_from_f16(u16_at(row + Layout::kMinAt)) * da, mins[chain]);
    }
  }
  return (dots[0] + dots[2]) + (dots[1] + dots[3]) - ((mins[0] + mins[2]) + (mins[1] + mins[3]));
}

// clang-format off
constexpr DotFormat kDotFormats[] = {
    {2,  32,  dot<NibbleLayout<q4_0::Code>>},
    {3,  32,  dot<NibbleLayout<q4_1::Code>>},
    {6,  32,  dot<NibbleLayout<q5_0::Code>>},
    {7,  32,  dot<NibbleLayout<q5_1::Code>>},
    {8,  32,  dot<Q8Layout>},
    {10, 256, dot<q2_k::Layout>},
    {11, 256, dot<q3_k::Layout>},
    {12, 256, dot<q4_k::Layout>},
    {13, 256, dot<q5_k::Layout>},
    {14, 256, dot<q6_k::Layout>},
    {20, 32,  dot<NibbleLayout<iq4_nl::Code>>},
    {23, 256, dot<iq4_xs::Layout>},
};
// clang-format on

}  // namespace

const DotFormat* find_dot_format(uint32_t ggml_type) {
  const auto* found = std::ranges::find(kDotFormats, ggml_type, &DotFormat::ggml_type);
  return found == std::end(kDotFormats) ? nullptr : found;
}

void quantize_dots(const float* x, int64_t n, int group, DotBlock* out) {
  for (int64_t begin = 0; begin < n; begin += kDotValues, ++out) {
    *out = DotBlock{};
    const auto n_block = static_cast<int>(std::min<int64_t>(kDotValues, n - begin));
    for (int first = 0; first < n_block; first += group) {
      const int end = std::min(n_block, first + group);
      float largest = 0.0F;
      bool finite = true;
      for (int i = first; i < end; ++i) {
        finite = finite && std::isfinite(x[begin + i]);
        largest = std::max(largest, std::fabs(x[begin + i]));
      }
      const bool codes = finite && largest >= 0x1p-100F;
      const float d = codes ? largest / 127.0F : finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
      const float inverse = codes ? 127.0F / largest : 0.0F;
      std::fill(out->d + first / 32, out->d + (first + group) / 32, d);
      for (int i = first; i < end && codes; ++i) {
        out->q[i] = static_cast<int8_t>(std::nearbyint(x[begin + i] * inverse));
        out->sums[i / 16] = static_cast<int16_t>(out->sums[i / 16] + out->q[i]);
      }
    }
  }
}

void matmul(const Matrix& w, int64_t row0, int64_t row1, const DotBlock* x, int64_t x_stride, int n_tokens,
            float* y, int64_t y_stride) {
  const DotFormat& format = *find_dot_format(w.format->ggml_type);
  for (int t = 0; t < n_tokens; ++t) {
    for (int64_t r = row0; r < row1; ++r) {
      const auto* row = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * w.row_bytes;
      y[t * y_stride + r] = format.dot(row, x + t * x_stride, w.cols);
    }
  }
}

}  // namespace kernels::ref
