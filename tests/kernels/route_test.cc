#include "kernels/route.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_rows.h"

using namespace kernels;

namespace {

struct Choice {
  std::vector<int> chosen;
  std::vector<float> weights;
};

Choice route_of(Router router, std::vector<float> logits, bool reference = false) {
  router.n_expert = static_cast<int>(logits.size());
  Choice choice{std::vector<int>(router.n_used, -1), std::vector<float>(router.n_used)};
  (reference ? ref::route : route)(router, logits.data(), choice.chosen.data(), choice.weights.data());
  return choice;
}

}  // namespace

TEST_CASE("softmax over all experts, the best two, normalised") {
  // exp: 1, e, 1, e^2
  const Choice choice = route_of({.n_used = 2}, {0.0F, 1.0F, 0.0F, 2.0F});
  CHECK(choice.chosen == std::vector<int>{3, 1});
  CHECK(choice.weights[0] == doctest::Approx(std::exp(1.0) / (1 + std::exp(1.0))));
  CHECK(choice.weights[1] == doctest::Approx(1 / (1 + std::exp(1.0))));
  const Choice plain = route_of({.n_used = 1, .normalize = false, .scale = 2}, {0.0F, std::log(3.0F)});
  CHECK(plain.chosen == std::vector<int>{1});
  CHECK(plain.weights[0] == doctest::Approx(1.5));
}

TEST_CASE("sigmoid: the bias decides who is chosen, and no weight") {
  const std::vector<float> logits = {2.0F, 0.0F, -2.0F, 1.0F}, bias = {0.0F, 0.6F, 1.0F, -1.0F};
  // Scores: 0.881, 1.1, 1.119, -0.269.
  const Choice choice = route_of({.gating = Gating::kSigmoid, .n_used = 2, .bias = bias.data()}, logits);
  CHECK(choice.chosen == std::vector<int>{2, 1});
  const double p2 = 1 / (1 + std::exp(2.0)), p1 = 0.5;
  CHECK(choice.weights[0] == doctest::Approx(p2 / (p1 + p2)));
  CHECK(choice.weights[1] == doctest::Approx(p1 / (p1 + p2)));
}

TEST_CASE("ties go to the lower index, in order") {
  const std::vector<float> equal(64, 0.25F);
  for (const Gating gating : {Gating::kSoftmax, Gating::kSigmoid}) {
    const Choice choice = route_of({.gating = gating, .n_used = 4}, equal);
    CHECK(choice.chosen == std::vector<int>{0, 1, 2, 3});
    CHECK(choice.weights == std::vector<float>(4, 0.25F));
  }
  CHECK(route_of({.n_used = 3}, {1.0F, 5.0F, 1.0F, 5.0F, 1.0F}).chosen == std::vector<int>{1, 3, 0});
  CHECK(route_of({.n_used = 3}, {1.0F, 2.0F, 3.0F}).chosen == std::vector<int>{2, 1, 0});  // all of them
}

TEST_CASE("tiny sums are not divided by, and what is no number is chosen last") {
  const Choice faint = route_of({.gating = Gating::kSigmoid, .n_used = 1}, {-20.0F, -21.0F});
  CHECK(faint.weights[0] == doctest::Approx(std::exp(-20.0) / 0x1p-14));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Choice some = route_of({.gating = Gating::kSigmoid, .n_used = 2}, {nan, -1.0F, nan, 1.0F});
  CHECK(some.chosen == std::vector<int>{3, 1});
  CHECK(std::isfinite(some.weights[0]));
  const Choice all = route_of({.n_used = 2}, {nan, nan, nan});
  CHECK(all.chosen == std::vector<int>{0, 1});
}

TEST_CASE("route equals the reference on every instruction set") {
  testing::each_isa([] {
    for (const int n_expert : {1, 8, 61, 256}) {
      for (const Gating gating : {Gating::kSoftmax, Gating::kSigmoid}) {
        const auto bias = testing::gaussian(n_expert, 5, 0.1F);
        const Router router{.gating = gating,
                            .n_used = std::min(8, n_expert),
                            .bias = gating == Gating::kSigmoid ? bias.data() : nullptr,
                            .scale = 1.5F};
        for (uint32_t seed = 0; seed < 20; ++seed) {
          const auto logits = testing::rough(n_expert, seed + 1);
          const Choice want = route_of(router, logits, true), got = route_of(router, logits);
          REQUIRE(got.chosen == want.chosen);
          for (size_t j = 0; j < want.weights.size(); ++j) {
            REQUIRE(got.weights[j] == doctest::Approx(want.weights[j]).epsilon(1e-5));
          }
        }
      }
    }
  });
}

TEST_CASE("mix equals the reference, and no value depends on where the columns are cut") {
  testing::each_isa([] {
    constexpr int kStride = 77, kUsed = 5;
    const auto rows = testing::gaussian(9 * kStride, 3), start = testing::gaussian(kStride, 4);
    const std::vector<int> at = {7, 0, 3, 8, 1};
    const auto weights = testing::gaussian(kUsed, 6);
    std::vector<float> want = start, got = start, parts = start, plain = start, in_order = start;
    ref::mix(rows.data(), kStride, at.data(), weights.data(), kUsed, kStride, want.data());
    mix(rows.data(), kStride, at.data(), weights.data(), kUsed, kStride, got.data());
    for (int i = 0; i < kStride; ++i) {
      REQUIRE(std::fabs(got[i] - want[i]) < 1e-5);
    }
    for (int i = 0; i < kStride; i += 5) {
      mix(rows.data() + i, kStride, at.data(), weights.data(), kUsed, std::min(5, kStride - i),
          parts.data() + i);
    }
    CHECK(parts == got);
    const std::vector<int> order = {0, 1, 2, 3, 4};
    mix(rows.data(), kStride, nullptr, weights.data(), kUsed, kStride, plain.data());
    mix(rows.data(), kStride, order.data(), weights.data(), kUsed, kStride, in_order.data());
    CHECK(plain == in_order);
    CHECK(plain != got);
  });
}
