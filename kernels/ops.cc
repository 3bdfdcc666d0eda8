#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/route.h"

// Compiled once per instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ops.cc"
#include "kernels/each_target.h"
//
#include <hwy/contrib/math/math-inl.h>
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {
namespace {

// f(x, i) for every vector of a row, the last one zero-padded; the padding's results are dropped.
template <class F>
HWY_INLINE void each(float* out, int n, const F& f) {
  const FloatTag df;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(f(i, kLanes), df, out + i);
  }
  if (i < n) {
    alignas(64) float lanes[kLanes];
    hn::Store(f(i, n - i), df, lanes);
    std::memcpy(out + i, lanes, sizeof(float) * static_cast<size_t>(n - i));
  }
}

HWY_INLINE VF load(const float* p, int n) {
  return n == kLanes ? hn::LoadU(FloatTag(), p) : load_padded(p, n);
}

struct NormOp {
  const float* x;
  const float* weight;
  VF s;
  HWY_INLINE VF operator()(int i, int n) const {
    return hn::Mul(hn::Mul(load(x + i, n), s), load(weight + i, n));
  }
};

struct SwigluOp {
  const float* gate;
  const float* up;
  HWY_INLINE VF operator()(int i, int n) const {
    const FloatTag df;
    const VF g = load(gate + i, n);
    // Under -88 exp(-g) leaves float's range and silu(g), there under 1e-36, is 0.
    const VF e = hn::Exp(df, hn::Neg(g));
    const VF silu = hn::Div(g, hn::Add(hn::Set(df, 1.0F), e));
    return hn::Mul(hn::IfThenZeroElse(hn::Lt(g, hn::Set(df, -88.0F)), silu), load(up + i, n));
  }
};

struct AddOp {
  const float* y;
  const float* x;
  HWY_INLINE VF operator()(int i, int n) const { return hn::Add(load(y + i, n), load(x + i, n)); }
};

struct ScaleOp {
  const float* y;
  VF s;
  HWY_INLINE VF operator()(int i, int n) const { return hn::Mul(load(y + i, n), s); }
};

struct ExpOp {
  const float* x;
  VF max;
  HWY_INLINE VF operator()(int i, int n) const { return hn::Exp(FloatTag(), hn::Sub(load(x + i, n), max)); }
};

struct MixOp {
  const float* rows;
  int64_t stride;
  const int* at;
  const float* weights;
  int k;
  const float* y;
  HWY_INLINE VF operator()(int i, int n) const {
    const FloatTag df;
    VF sum = hn::Zero(df);
    for (int j = 0; j < k; ++j) {
      sum =
          hn::MulAdd(hn::Set(df, weights[j]), load(rows + (at == nullptr ? j : at[j]) * stride + i, n), sum);
    }
    return hn::Add(load(y + i, n), sum);
  }
};

}  // namespace

float rms_scale_all(const float* x, int n, float eps) {
  VF sum = hn::Zero(FloatTag());
  for (int i = 0; i < n; i += kLanes) {
    const VF v = load(x + i, std::min(kLanes, n - i));
    sum = hn::MulAdd(v, v, sum);
  }
  const float mean = sum_lanes(sum) / static_cast<float>(n);
  return 1.0F / std::sqrt(mean + eps);
}

void scale_by_all(const float* x, float s, const float* weight, int n, float* out) {
  each(out, n, NormOp{x, weight, hn::Set(FloatTag(), s)});
}

void rms_norm_all(const float* x, const float* weight, int n, float eps, float* out) {
  scale_by_all(x, rms_scale_all(x, n, eps), weight, n, out);
}

void mix_all(const float* rows, int64_t stride, const int* at, const float* weights, int k, int n, float* y) {
  each(y, n, MixOp{rows, stride, at, weights, k, y});
}

void swiglu_all(float* gate, const float* up, int n) {
  each(gate, n, SwigluOp{gate, up});
}
void add_all(float* y, const float* x, int n) {
  each(y, n, AddOp{y, x});
}
void scale_all(float* y, float s, int n) {
  each(y, n, ScaleOp{y, hn::Set(FloatTag(), s)});
}

float reduce_max_all(const float* x, int n) {
  const FloatTag df;
  VF largest = hn::Set(df, -std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    largest = hn::Max(largest, hn::LoadU(df, x + i));
  }
  // Not MaxOfLanes: emulated vectors start it at the lowest finite float.
  alignas(64) float lanes[kLanes];
  hn::Store(largest, df, lanes);
  float result = *std::max_element(lanes, lanes + kLanes);
  for (; i < n; ++i) {
    result = std::max(result, x[i]);
  }
  return result;
}

float exp_sum_all(float* x, int n, float max) {
  each(x, n, ExpOp{x, hn::Set(FloatTag(), max)});
  VF sum = hn::Zero(FloatTag());
  for (int i = 0; i < n; i += kLanes) {
    sum = hn::Add(sum, load(x + i, std::min(kLanes, n - i)));
  }
  return sum_lanes(sum);
}

void rope_norm_all(float* head, int n_rot, const float* cos_sin) {
  for (int i = 0; i < n_rot; i += 2) {
    const float a = head[i];
    const float b = head[i + 1];
    head[i] = a * cos_sin[i] - b * cos_sin[i + 1];
    head[i + 1] = a * cos_sin[i + 1] + b * cos_sin[i];
  }
}

void rope_neox_all(float* head, int n_rot, const float* cos_sin) {
  const int half = n_rot / 2;
  for (int i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cos_sin[2 * i] - b * cos_sin[2 * i + 1];
    head[i + half] = a * cos_sin[2 * i + 1] + b * cos_sin[2 * i];
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace kernels {

HWY_EXPORT(rms_norm_all);
HWY_EXPORT(rms_scale_all);
HWY_EXPORT(scale_by_all);
HWY_EXPORT(mix_all);
HWY_EXPORT(swiglu_all);
HWY_EXPORT(add_all);
HWY_EXPORT(scale_all);
HWY_EXPORT(reduce_max_all);
HWY_EXPORT(exp_sum_all);
HWY_EXPORT(rope_norm_all);
HWY_EXPORT(rope_neox_all);

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  HWY_DYNAMIC_DISPATCH(rms_norm_all)(x, weight, n, eps, out);
}
float rms_scale(const float* x, int n, float eps) {
  return HWY_DYNAMIC_DISPATCH(rms_scale_all)(x, n, eps);
}
void scale_by(const float* x, float s, const float* weight, int n, float* out) {
  HWY_DYNAMIC_DISPATCH(scale_by_all)(x, s, weight, n, out);
}
void mix(const float* rows, int64_t stride, const int* at, const float* weights, int k, int n, float* y) {
  HWY_DYNAMIC_DISPATCH(mix_all)(rows, stride, at, weights, k, n, y);
}
void rope_norm(float* head, int n_rot, const float* cos_sin) {
  HWY_DYNAMIC_DISPATCH(rope_norm_all)(head, n_rot, cos_sin);
}
void rope_neox(float* head, int n_rot, const float* cos_sin) {
  HWY_DYNAMIC_DISPATCH(rope_neox_all)(head, n_rot, cos_sin);
}
void swiglu(float* gate, const float* up, int n) {
  HWY_DYNAMIC_DISPATCH(swiglu_all)(gate, up, n);
}
void add(float* y, const float* x, int n) {
  HWY_DYNAMIC_DISPATCH(add_all)(y, x, n);
}
float reduce_max(const float* x, int n) {
  return HWY_DYNAMIC_DISPATCH(reduce_max_all)(x, n);
}
float exp_sum(float* x, int n, float max) {
  return HWY_DYNAMIC_DISPATCH(exp_sum_all)(x, n, max);
}
void scale(float* y, float s, int n) {
  HWY_DYNAMIC_DISPATCH(scale_all)(y, s, n);
}

}  // namespace kernels

#endif  // HWY_ONCE
