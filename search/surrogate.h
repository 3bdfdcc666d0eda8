#pragma once
// What a few dozen noisy launches say of a configuration that was not launched: a Gaussian process over the indices of
// axis values. Its kernel is the product over axes of (1 + w k) less 1: each axis by itself with variance w, every
// interaction with the product of its axes' weights, so interactions are believed where their axes matter. k is 1 for
// equal values; of two names 0, of two numbers a Matern 5/2 over their ranks. The weights are fitted by marginal
// likelihood under a prior. Deterministic.

#include <span>
#include <vector>

#include "search/candidates.h"

namespace search {

class Surrogate {
 public:
  explicit Surrogate(const Space& space);

  struct Prediction {
    double mean = 0, sigma = 0;
  };

  // y: any scale; noise: one sigma of each, above 0. At least one point.
  void fit(std::span<const Levels> x, std::span<const double> y, std::span<const double> noise);
  // Of the function, without noise; after fit.
  std::vector<Prediction> predict(std::span<const Levels> at) const;

 private:
  double similarity(size_t axis, size_t a, size_t b) const { return tables_[axis][a * sizes_[axis] + b]; }
  double covariance(const Levels& a, const Levels& b) const;
  // Of every pair, the lower triangle; (n, n).
  std::vector<double> similarities(size_t axis, std::span<const Levels> x) const;
  // weights_ and amplitude_ by the marginal likelihood.
  void find_weights(std::span<const Levels> x, std::span<const double> centred,
                    std::span<const double> noise);

  std::vector<size_t> sizes_;                // values of each axis
  std::vector<std::vector<double>> tables_;  // [axis][a * sizes + b]
  std::vector<double> prior_;                // of each axis' weight
  std::vector<Levels> x_;
  std::vector<double> weights_;
  double amplitude_ = 1, mean_ = 0;
  std::vector<double> factor_, alpha_;  // lower triangle of the covariance, (n, n); its inverse times y
};

}  // namespace search
