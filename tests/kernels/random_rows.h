#pragma once
// Random data that can fail: Gaussian values from a fixed generator, some with outliers and zeros.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace kernels::testing {

inline std::vector<float> gaussian(size_t n, uint32_t seed, float sigma = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, sigma);
  std::vector<float> values(n);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

// Gaussian with one value in 16 a zero and one in 37 thirty times too large.
inline std::vector<float> rough(size_t n, uint32_t seed) {
  std::vector<float> values = gaussian(n, seed);
  for (size_t i = 0; i < n; ++i) {
    values[i] *= i % 37 == 5 ? 30.0F : 1.0F;
    values[i] *= i % 16 == 3 ? 0.0F : 1.0F;
  }
  return values;
}

}  // namespace kernels::testing
