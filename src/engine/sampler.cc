#include "src/engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace engine {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

uint32_t choose_seed(uint32_t seed) {
  std::random_device device;
  while (seed == kRandomSeed) {
    seed = device();
  }
  return seed;
}

}  // namespace

Sampler::Sampler(SamplerParams params, std::span<const int> eog)
    : params_(std::move(params)), seed_(choose_seed(params_.seed)), state_(seed_) {
  if (params_.ignore_eos) {
    for (int token : eog) {
      params_.logit_bias.emplace_back(token, kNegativeInfinity);
    }
  }
}

// splitmix64 (Steele, Lea, Flood 2014): any seed is a good one.
double Sampler::next_uniform() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

base::Result<int> Sampler::sample(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_[i] = {static_cast<int>(i), logits[i]};
  }
  for (const auto& [token, bias] : params_.logit_bias) {
    if (token >= 0 && static_cast<size_t>(token) < candidates_.size()) {
      candidates_[static_cast<size_t>(token)].logit += bias;
    }
  }
  const Candidate* best = nullptr;
  for (const Candidate& candidate : candidates_) {
    if (std::isnan(candidate.logit) || candidate.logit == -kNegativeInfinity) {
      return base::error(
          "sampling", fmt::format("the logit of token {} is {}", candidate.token, candidate.logit),
          "the model file or its KV cache is damaged; try another cache type, or download the model again");
    }
    if (!best || candidate.logit > best->logit) {
      best = &candidate;  // the lowest id of equals
    }
  }
  if (!best || best->logit == kNegativeInfinity) {
    return base::error("sampling", "every token is banned", "allow some: check logit_bias and ignore_eos");
  }
  if (params_.temperature <= 0) {
    return best->token;
  }
  return draw();
}

int Sampler::draw() {
  auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  auto min_keep = static_cast<size_t>(std::max(1, params_.min_keep));
  size_t n = candidates_.size();
  if (params_.top_k > 0) {
    n = std::min(n, std::max(static_cast<size_t>(params_.top_k), min_keep));
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(n),
                      candidates_.end(), better);
  } else {
    std::sort(candidates_.begin(), candidates_.end(), better);
  }
  // Softmax without temperature: what top-p looks at.
  auto weigh = [&](float temperature) {
    weights_.resize(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      weights_[i] =
          std::exp((static_cast<double>(candidates_[i].logit) - candidates_[0].logit) / temperature);
      sum += weights_[i];
    }
    return sum;
  };
  if (params_.top_p < 1) {
    double limit = static_cast<double>(params_.top_p) * weigh(1), sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += weights_[i];
      if (sum >= limit && i + 1 >= min_keep) {
        n = i + 1;
        break;
      }
    }
  }
  if (params_.min_p > 0) {
    float floor = candidates_[0].logit + std::log(params_.min_p);
    size_t kept = 1;
    while (kept < n && candidates_[kept].logit >= floor) {
      ++kept;
    }
    n = std::min(n, std::max(kept, min_keep));
  }
  double target = next_uniform() * weigh(params_.temperature);
  for (size_t i = 0; i + 1 < n; ++i) {
    target -= weights_[i];
    if (target < 0) {
      return candidates_[i].token;
    }
  }
  return candidates_[n - 1].token;
}

}  // namespace engine
