// Perplexity scores on synthetic losses.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <random>

#include "probes/perplexity.h"

using namespace probes;

namespace {

struct Runs {
  std::vector<TokenLoss> base, test;
};

// Losses of a text, and the same with a perplexity of (1 + change) times as much and `noise` per token; neighbours'
// noise goes together with a coefficient of `memory`. The mean change is exact.
Runs runs(size_t n, double change, double noise, double memory = 0, unsigned seed = 7) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Runs out;
  std::vector<double> wobble(n);
  double state = 0, mean = 0;
  for (size_t i = 0; i < n; ++i) {
    state = memory * state + std::sqrt(1 - memory * memory) * normal(random);
    wobble[i] = noise * state;
    mean += wobble[i] / static_cast<double>(n);
  }
  for (size_t i = 0; i < n; ++i) {
    TokenLoss loss;
    loss.token = static_cast<int>(i % 1000);
    loss.nll = 4 + std::abs(normal(random));
    loss.top = loss.token;
    out.base.push_back(loss);
    loss.nll += std::log1p(change) + wobble[i] - mean;
    loss.kl = 0.01;
    loss.top += i % 10 == 0 ? 1 : 0;
    out.test.push_back(loss);
  }
  return out;
}

PerplexityResult score(const Runs& r, PerplexityOptions options = {}) {
  auto result = score_perplexity(r.base, r.test, options);
  REQUIRE_MESSAGE(result.ok(), result.failure().to_string());
  return *result;
}

}  // namespace

TEST_CASE("perplexity passes, fails, or says how many tokens it takes") {
  PerplexityResult good = score(runs(20000, 0.005, 0.3));
  CHECK(good.verdict == PerplexityVerdict::kPass);
  CHECK(good.ratio == doctest::Approx(1.005));
  CHECK(good.low < 1.005);
  CHECK(good.high > 1.005);
  CHECK(good.ppl_test / good.ppl_base == doctest::Approx(1.005));
  CHECK(good.same_top == doctest::Approx(0.9));
  CHECK(good.kl_mean == doctest::Approx(0.01));
  CHECK(score(runs(20000, 0.05, 0.3)).verdict == PerplexityVerdict::kFail);
  CHECK(score(runs(1000, 0.01, 0.5)).verdict == PerplexityVerdict::kUndecided);
  // Against itself: no difference, no width, and nothing left to decide.
  Runs same = runs(1000, 0, 0);
  CHECK(score(same).verdict == PerplexityVerdict::kPass);
  CHECK(score(same).high == doctest::Approx(1));
}

TEST_CASE("+1.93% against a margin of 2% is undecided until the text is very long") {
  Runs r = runs(20000, 0.0193, 0.1);
  PerplexityResult result = score(r);
  CHECK(result.verdict == PerplexityVerdict::kUndecided);
  // (1.96 * 0.1 / (ln 1.02 - ln 1.0193))^2
  double expected = std::pow(1.96 * 0.1 / (std::log(1.02) - std::log(1.0193)), 2);
  CHECK(expected > 80000);
  CHECK(static_cast<double>(result.tokens_needed) == doctest::Approx(expected).epsilon(0.15));
  CHECK(score(runs(2 * result.tokens_needed, 0.0193, 0.1)).verdict == PerplexityVerdict::kPass);
}

TEST_CASE("neighbours that go together widen the interval") {
  PerplexityResult apart = score(runs(8000, 0.01, 0.2)), together = score(runs(8000, 0.01, 0.2, 0.9));
  CHECK(together.high - together.low > 2 * (apart.high - apart.low));
  PerplexityOptions single;
  single.block = 1;  // what it would be without blocks
  PerplexityResult blind = score(runs(8000, 0.01, 0.2, 0.9), single);
  CHECK(together.high - together.low > 2 * (blind.high - blind.low));
}

TEST_CASE("the interval holds the truth as often as it says") {
  int held = 0;
  for (unsigned seed = 0; seed < 100; ++seed) {
    Runs r = runs(4000, 0, 0, 0, seed);
    std::mt19937 random(seed + 1000);
    std::normal_distribution<double> normal(std::log(1.01), 0.2);
    for (size_t i = 0; i < r.test.size(); ++i) {
      r.test[i].nll = r.base[i].nll + normal(random);
    }
    PerplexityOptions options;
    options.resamples = 500;
    PerplexityResult result = score(r, options);
    held += result.low < 1.01 && result.high > 1.01 ? 1 : 0;
  }
  CHECK(held >= 88);
  CHECK(held < 100);
}

TEST_CASE("losses from files are checked line by line") {
  auto losses =
      parse_losses("{\"token\":5,\"nll\":1.5,\"top\":7,\"kl\":0.1}\n\n{\"token\":6,\"nll\":0}\n", "f");
  REQUIRE(losses.ok());
  REQUIRE(losses->size() == 2);
  CHECK((*losses)[0].top == 7);
  CHECK((*losses)[1].kl == -1);
  auto fault = [](const char* text) {
    auto bad = parse_losses(text, "losses.jsonl");
    REQUIRE_FALSE(bad.ok());
    return bad.failure().to_string();
  };
  CHECK(fault("{\"token\":5,\"nll\":1}\n{\"token\":5}\n").starts_with("losses.jsonl:2: has no"));
  CHECK(fault("{\"token\":5,\"nll\":-1}\n").find("not from 0") != std::string::npos);
  CHECK(fault("{\"token\":5,\"nll\":3.4e38}\n").find("not from 0") != std::string::npos);
  CHECK(fault("{\"token\":1e300,\"nll\":1}\n").find("token id") != std::string::npos);
  CHECK(fault("[]\n").find("has no") != std::string::npos);
  CHECK(fault("{\"tok\n").find("losses.jsonl:1") == 0);
}

TEST_CASE("different texts are not compared") {
  Runs r = runs(1000, 0.01, 0.1);
  auto what = [&] {
    auto result = score_perplexity(r.base, r.test, {});
    REQUIRE_FALSE(result.ok());
    return result.failure().what;
  };
  r.test[77].token = 5;
  CHECK(what() == "token 77 is 77 in one run and 5 in the other");
  r.test.pop_back();
  CHECK(what() == "1000 tokens against 999");
  r = runs(100, 0.01, 0.1);
  CHECK(what() == "100 tokens are too few");
  r = runs(1000, 0.01, 0.1);
  r.test[3].nll = NAN;
  CHECK(what() == "the loss of token 3 is no number");
  CHECK(to_json(score(runs(20000, 0.0193, 0.1)))["verdict"] == "undecided");
}
