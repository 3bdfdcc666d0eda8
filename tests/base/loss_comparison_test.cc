#include "src/base/loss_comparison.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace {

// n differences with this mean exactly, in turns `spread` above and below it.
std::vector<double> around(double mean, double spread, size_t n) {
  std::vector<double> differences(n);
  for (size_t i = 0; i < n; ++i) {
    differences[i] = mean + (i % 2 == 0 ? spread : -spread);
  }
  return differences;
}

}  // namespace

TEST_CASE("a difference without spread decides at once, on either side of the margin") {
  const auto below = base::compare_losses(around(std::log(1.019), 0, 256), {});
  CHECK(below.verdict == base::LossVerdict::kPass);
  CHECK(below.ratio == doctest::Approx(1.019));
  CHECK(below.low == doctest::Approx(1.019));
  CHECK(below.high == doctest::Approx(1.019));
  CHECK(base::compare_losses(around(std::log(1.021), 0, 256), {}).verdict == base::LossVerdict::kFail);
  CHECK(base::to_string(below.verdict) == "pass");
}

TEST_CASE("blocks of an even length cancel what goes up and down in turn; single tokens do not") {
  base::LossOptions single;
  single.block = 1;
  const auto differences = around(std::log(1.01), 0.5, 1024);
  const auto blocks = base::compare_losses(differences, {});
  CHECK(blocks.high - blocks.low == doctest::Approx(0).epsilon(1e-9));
  const auto tokens = base::compare_losses(differences, single);
  // 2 * 1.96 * 0.5 / sqrt(1024), as a ratio around 1.01
  CHECK(tokens.high - tokens.low == doctest::Approx(0.0619).epsilon(0.1));
  CHECK(tokens.verdict == base::LossVerdict::kUndecided);
  // (1.96 * 0.5 / (ln 1.02 - ln 1.01))^2 tokens would decide it.
  CHECK(static_cast<double>(tokens.tokens_needed) == doctest::Approx(9890).epsilon(0.2));
}

TEST_CASE("the same differences give the same interval; another seed another one") {
  std::vector<double> differences;
  for (int i = 0; i < 600; ++i) {
    differences.push_back(std::sin(i * i));
  }
  const auto once = base::compare_losses(differences, {}), again = base::compare_losses(differences, {});
  CHECK(once.low == again.low);
  CHECK(once.high == again.high);
  base::LossOptions other;
  other.seed = 2;
  CHECK(base::compare_losses(differences, other).low != once.low);
}
