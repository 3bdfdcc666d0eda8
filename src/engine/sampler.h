#pragma once
// Logits to a token: greedy at temperature 0, else top-k, top-p, min-p, temperature, draw, in llama.cpp's
// order. The generator is our own, so that a seed gives the same tokens on every platform. No clock (seeding
// apart), no I/O.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace engine {

inline constexpr uint32_t kRandomSeed = 0xFFFFFFFF;  // ask for one; the one taken is reported

struct SamplerParams {
  uint32_t seed = kRandomSeed;
  float temperature = 0.8F;                       // <= 0: greedy
  int top_k = 40;                                 // <= 0: all
  float top_p = 0.95F;                            // >= 1: off
  float min_p = 0.05F;                            // <= 0: off
  int min_keep = 0;                               // candidates that top-p and min-p must leave
  bool ignore_eos = false;                        // tokens that end generation cannot be drawn
  std::vector<std::pair<int, float>> logit_bias;  // added to logits; -infinity bans
};

class Sampler {
 public:
  // `eog`: the tokens ignore_eos bans.
  Sampler(SamplerParams params, std::span<const int> eog);

  // Logits [n_vocab] -> token. Errors: a NaN among the logits, or no token left to draw.
  base::Result<int> sample(std::span<const float> logits);

  uint32_t seed() const { return seed_; }  // never kRandomSeed

 private:
  struct Candidate {
    int token;
    float logit;
  };
  int draw();
  double next_uniform();  // [0, 1)

  SamplerParams params_;
  uint32_t seed_;
  uint64_t state_;
  std::vector<Candidate> candidates_;  // kept between calls for its memory
  std::vector<double> weights_;
};

}  // namespace engine
