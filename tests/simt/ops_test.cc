#include "kernels/cuda/ops.h"

#include <algorithm>

#include "kernels/ops.h"
#include "tests/simt/device_rows.h"

using namespace kernels;
using simt::Buffer;
using simt::require;
using simt::require_close;

namespace {

// A graph captured for four rows runs the three there are.
constexpr int kRows = 3;
const std::vector<int> kUsed = {kRows};

size_t n_of(int rows, int n) {
  return static_cast<size_t>(rows) * static_cast<size_t>(n);
}

}  // namespace

TEST_CASE("norm with the residual added") {
  Buffer<int> used("used", kUsed);
  for (const int n : {4, 36, 1028}) {
    for (const bool with_delta : {false, true}) {
      const auto h = testing::rough(n_of(kRows, n), 1), delta = testing::rough(n_of(kRows, n), 2);
      const auto weight = testing::gaussian(static_cast<size_t>(n), 3);
      Buffer<float> h_on("h", h), delta_on("delta", delta), weight_on("weight", weight), out("out", h.size());
      require(cuda::add_norm(nullptr, {4, used.data()}, h_on.data(), with_delta ? delta_on.data() : nullptr,
                             weight_on.data(), n, 1e-5F, out.data()));
      CHECK(out.unwritten() == 0);
      std::vector<float> sum = h, want(h.size());
      for (size_t i = 0; i < h.size() && with_delta; ++i) {
        sum[i] += delta[i];
      }
      CHECK(h_on.values() == sum);
      const std::vector<float> got = out.values();
      for (int row = 0; row < kRows; ++row) {
        ref::rms_norm(sum.data() + row * n, weight.data(), n, 1e-5F, want.data() + row * n);
      }
      for (size_t i = 0; i < got.size(); ++i) {
        require_close(got[i], want[i], 1e-6, std::fabs(want[i]));
      }
    }
  }
}

TEST_CASE("QK norm and RoPE, both orders") {
  Buffer<int> used("used", kUsed);
  for (const int dim : {8, 80, 128}) {
    for (const int kind : {0, 1, 2, 3, 4, 5}) {  // no norm, each head, all heads; both orders
      const int heads = 5, n_rot = dim == 80 ? 64 : dim, width = heads * dim;
      const bool neox = kind % 2 == 1, norm = kind >= 2, all = kind >= 4;
      const auto x = testing::rough(n_of(kRows, width), 4), angle = testing::gaussian(n_of(kRows, n_rot), 5);
      const auto weight = testing::gaussian(static_cast<size_t>(all ? width : dim), 6);
      std::vector<float> cos_sin(angle.size());
      for (size_t i = 0; i < angle.size(); i += 2) {
        cos_sin[i] = std::cos(angle[i]);
        cos_sin[i + 1] = std::sin(angle[i]);
      }
      Buffer<float> x_on("x", x), weight_on("weight", weight), cos_sin_on("cos_sin", cos_sin);
      cuda::HeadTurn turn{.x = x_on.data(), .weight = norm ? weight_on.data() : nullptr, .norm_all = all};
      turn.heads = heads, turn.dim = dim, turn.n_rot = n_rot, turn.neox = neox;
      turn.cos_sin = cos_sin_on.data(), turn.eps = 1e-6F;
      require(cuda::turn_heads(nullptr, {4, used.data()}, turn));
      std::vector<float> want = x;
      for (int row = 0; row < kRows; ++row) {
        float* at = want.data() + row * width;
        if (all) {
          ref::rms_norm(at, weight.data(), width, 1e-6F, at);
        }
        for (int head = 0; head < heads; ++head, at += dim) {
          if (norm && !all) {
            ref::rms_norm(at, weight.data(), dim, 1e-6F, at);
          }
          (neox ? ref::rope_neox : ref::rope_norm)(at, n_rot, cos_sin.data() + row * n_rot);
        }
      }
      const std::vector<float> got = x_on.values();
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t head = i / static_cast<size_t>(dim) * static_cast<size_t>(dim);
        float largest = 0;
        for (size_t j = head; j < head + static_cast<size_t>(dim); ++j) {
          largest = std::max(largest, std::fabs(want[j]));
        }
        require_close(got[i], want[i], 1e-6, largest);
      }
    }
  }
}

TEST_CASE("SwiGLU and the mix of experts") {
  Buffer<int> used("used", kUsed);
  constexpr int kN = 301, kExperts = 3;
  auto gate = testing::rough(n_of(kRows, kN), 7), up = testing::rough(n_of(kRows, kN), 8);
  gate[5] = -1000.0F;
  Buffer<float> gate_on("gate", gate), up_on("up", up);
  require(cuda::swiglu(nullptr, {4, used.data()}, gate_on.data(), up_on.data(), kN));
  ref::swiglu(gate.data(), up.data(), kRows * kN);
  const std::vector<float> got = gate_on.values();
  for (size_t i = 0; i < got.size(); ++i) {
    require_close(got[i], gate[i], 1e-6, std::fabs(gate[i]));
  }
  const auto x = testing::rough(n_of(kRows * kExperts, kN), 9),
             weights = testing::gaussian(kRows * kExperts, 10);
  Buffer<float> x_on("x", x), weights_on("weights", weights), y_on("y", up);
  require(cuda::mix(nullptr, {4, used.data()}, x_on.data(), weights_on.data(), kExperts, kN, y_on.data()));
  const std::vector<float> mixed = y_on.values();
  for (int row = 0; row < kRows; ++row) {
    std::vector<float> want(up.begin() + row * kN, up.begin() + (row + 1) * kN);
    ref::mix(x.data() + row * kExperts * kN, kN, nullptr, weights.data() + row * kExperts, kExperts, kN,
             want.data());
    for (int i = 0; i < kN; ++i) {
      require_close(mixed[n_of(row, kN) + static_cast<size_t>(i)], want[static_cast<size_t>(i)], 1e-6, 100);
    }
  }
}

TEST_CASE("the experts of a row, as on the CPU") {
  Buffer<int> used("used", kUsed);
  for (const auto gating : {Gating::kSoftmax, Gating::kSigmoid}) {
    for (const int n_expert : {1, 7, 256}) {
      const int n_used = std::min(n_expert, 5);
      auto logits = testing::rough(n_of(kRows, n_expert), 11);  // one in 16 a zero: ties
      logits[logits.size() / 2] = std::nanf("");
      const auto bias = testing::gaussian(static_cast<size_t>(n_expert), 12, 0.3F);
      for (const bool with_bias : {false, true}) {
        Buffer<float> logits_on("logits", logits), bias_on("bias", bias),
            weights_on("weights", n_of(kRows, n_used));
        Buffer<int> chosen_on("chosen", n_of(kRows, n_used));
        Router router{.gating = gating, .n_expert = n_expert, .n_used = n_used};
        router.bias = with_bias ? bias_on.data() : nullptr;
        router.normalize = with_bias, router.scale = 2.5F;
        require(cuda::route(nullptr, {4, used.data()}, router, logits_on.data(), chosen_on.data(),
                            weights_on.data()));
        const auto chosen = chosen_on.values();
        const auto weights = weights_on.values();
        router.bias = with_bias ? bias.data() : nullptr;
        for (int row = 0; row < kRows; ++row) {
          std::vector<float> p(logits.begin() + row * n_expert, logits.begin() + (row + 1) * n_expert);
          if (gating == Gating::kSoftmax && std::any_of(p.begin(), p.end(), [](float x) { return x != x; })) {
            continue;  // all of them are NaN
          }
          std::vector<int> want(static_cast<size_t>(n_used));
          std::vector<float> want_weights(static_cast<size_t>(n_used));
          kernels::route(router, p.data(), want.data(), want_weights.data());
          for (int j = 0; j < n_used; ++j) {
            REQUIRE(chosen[n_of(row, n_used) + static_cast<size_t>(j)] == want[static_cast<size_t>(j)]);
            const float w = want_weights[static_cast<size_t>(j)];
            const float got = weights[n_of(row, n_used) + static_cast<size_t>(j)];
            REQUIRE(((w != w && got != got) || std::fabs(got - w) <= 1e-5F * std::fabs(w)));
          }
        }
      }
    }
  }
}
