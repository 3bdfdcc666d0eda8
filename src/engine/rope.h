#pragma once
// The angles of rotary position embeddings: frequency scaling, llama-3.1 divisors and YaRN come to one angle
// per position and pair, and one magnitude.

#include <vector>

#include "src/engine/model.h"

namespace engine {

struct RopeTable {
  std::vector<double> radians;  // [n_rot/2] per position
  double magnitude = 1;         // of cos and sin

  // cos_sin[n_rot/2 pairs] for a position. Double arithmetic: float angles lose 2e-4 rad at position 4096.
  void fill(int pos, float* cos_sin) const;
};

// factors: (n_rot/2) divisors, or nullptr.
RopeTable make_rope_table(const HParams& hp, const float* factors);

}  // namespace engine
