#include "src/engine/sampler.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

using engine::Sampler;
using engine::SamplerParams;

namespace {

SamplerParams plain(float temperature) {
  SamplerParams params;
  params.seed = 7;
  params.temperature = temperature;
  params.top_k = 0;
  params.top_p = 1;
  params.min_p = 0;
  return params;
}

std::set<int> drawn(const SamplerParams& params, const std::vector<float>& logits, int n = 2000) {
  Sampler sampler(params, {});
  std::set<int> out;
  for (int i = 0; i < n; ++i) {
    out.insert(sampler.sample(logits).value());
  }
  return out;
}

}  // namespace

TEST_CASE("temperature 0 takes the best token, the lowest id of equals") {
  Sampler sampler(plain(0), {});
  CHECK(sampler.sample(std::vector<float>{1, 3, 3, 2}).value() == 1);
  CHECK(sampler.sample(std::vector<float>{-5}).value() == 0);
}

TEST_CASE("a seed repeats its tokens; another seed gives others; -1 draws one and says which") {
  std::vector<float> logits(50, 0.0F);
  auto run = [&](uint32_t seed) {
    SamplerParams params = plain(1);
    params.seed = seed;
    Sampler sampler(params, {});
    std::vector<int> out;
    for (int i = 0; i < 20; ++i) {
      out.push_back(sampler.sample(logits).value());
    }
    return out;
  };
  CHECK(run(1) == run(1));
  CHECK(run(1) != run(2));
  CHECK(Sampler(plain(1), {}).seed() == 7);
  SamplerParams random = plain(1);
  random.seed = engine::kRandomSeed;
  CHECK(Sampler(random, {}).seed() != engine::kRandomSeed);
}

TEST_CASE("draws follow the softmax at the temperature") {
  std::vector<float> logits = {std::log(0.7F), std::log(0.2F), std::log(0.1F)};
  Sampler sampler(plain(1), {});
  int counts[3] = {};
  for (int i = 0; i < 20000; ++i) {
    ++counts[sampler.sample(logits).value()];
  }
  CHECK(counts[0] == doctest::Approx(14000).epsilon(0.03));
  CHECK(counts[2] == doctest::Approx(2000).epsilon(0.1));
  Sampler cold(plain(0.5F), {});  // squares the odds: .49 : .04 : .01
  int first = 0;
  for (int i = 0; i < 20000; ++i) {
    first += cold.sample(logits).value() == 0;
  }
  CHECK(first == doctest::Approx(20000 * 0.49 / 0.54).epsilon(0.02));
}

TEST_CASE("top-k, top-p and min-p cut where llama.cpp cuts, before the temperature") {
  std::vector<float> logits = {std::log(0.1F), std::log(0.5F), std::log(0.25F), std::log(0.15F)};
  SamplerParams params = plain(5);
  params.top_k = 2;
  CHECK(drawn(params, logits) == std::set<int>{1, 2});
  params = plain(5);
  params.top_p = 0.6F;  // 0.5 < 0.6 <= 0.75: two
  CHECK(drawn(params, logits) == std::set<int>{1, 2});
  params.top_p = 0.01F;
  CHECK(drawn(params, logits) == std::set<int>{1});
  params.min_keep = 3;
  CHECK(drawn(params, logits) == std::set<int>{1, 2, 3});
  params = plain(5);
  params.min_p = 0.28F;  // of 0.5: 0.14
  CHECK(drawn(params, logits) == std::set<int>{1, 2, 3});
  params.min_p = 1;
  CHECK(drawn(params, logits) == std::set<int>{1});
  params.min_keep = 4;
  CHECK(drawn(params, logits) == std::set<int>{0, 1, 2, 3});
  params = plain(5);
  params.top_k = 1000;
  CHECK(drawn(params, logits).size() == 4);
}

TEST_CASE("ignore_eos and logit_bias ban tokens, greedy too") {
  SamplerParams params = plain(0);
  params.ignore_eos = true;
  std::vector<int> eog = {1, 2};
  CHECK(Sampler(params, eog).sample(std::vector<float>{0, 9, 8, 1}).value() == 3);
  params = plain(0);
  params.logit_bias = {{1, -20.0F}, {99, 5.0F}, {-1, 5.0F}};  // ids outside the vocabulary are nobody
  CHECK(Sampler(params, {}).sample(std::vector<float>{0, 9, 8, 1}).value() == 2);
}

TEST_CASE("NaN, infinity and nothing left to draw are errors") {
  for (float temperature : {0.0F, 1.0F}) {
    Sampler sampler(plain(temperature), {});
    CHECK_FALSE(sampler.sample(std::vector<float>{0, std::nanf(""), 1}).ok());
    CHECK_FALSE(sampler.sample(std::vector<float>{0, std::numeric_limits<float>::infinity()}).ok());
    CHECK_FALSE(sampler.sample(std::vector<float>{-std::numeric_limits<float>::infinity()}).ok());
    CHECK_FALSE(sampler.sample({}).ok());
  }
}
