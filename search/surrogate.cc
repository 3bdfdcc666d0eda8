#include "search/surrogate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

namespace search {
namespace {

constexpr double kLengthScale = 0.7;       // of a Matern over ranks from 0 to 1
constexpr double kPriorWeight = 0.35;      // of every axis, before there is data
constexpr double kPriorSpread = 1.0;       // of the logarithm of weight and amplitude
constexpr double kLevelVariance = 4.0;     // of the overall level, in amplitudes
constexpr double kLeastVariance = 0.0025;  // of y: few launches that agree do not rule out an effect of 5%
constexpr int kRounds = 2;
constexpr std::array kSteps = {0.15, 0.5, 2.0, 6.0};
constexpr double kLeastWeight = 0.005, kMostWeight = 4;
constexpr size_t kBlock = 16;           // candidates predicted side by side
constexpr size_t kMostForWeights = 64;  // launches by which weights are fitted

double matern52(double distance) {
  const double r = std::sqrt(5.0) * distance / kLengthScale;
  return (1 + r + r * r / 3) * std::exp(-r);
}

// Lower Cholesky factor of a (n, n) in place; false when it is not positive definite.
bool factorise(std::vector<double>& a, size_t n) {
  for (size_t j = 0; j < n; ++j) {
    double diagonal = a[j * n + j];
    for (size_t k = 0; k < j; ++k) {
      diagonal -= a[j * n + k] * a[j * n + k];
    }
    if (!(diagonal > 0)) {
      return false;
    }
    diagonal = std::sqrt(diagonal);
    a[j * n + j] = diagonal;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = a[i * n + j];
      for (size_t k = 0; k < j; ++k) {
        sum -= a[i * n + k] * a[j * n + k];
      }
      a[i * n + j] = sum / diagonal;
    }
  }
  return true;
}

// The search for weights: the product matrix is kept, so that one axis' weight is tried at n^2/2.
class Fit {
 public:
  Fit(std::span<const double> y, std::span<const double> noise) : n_(y.size()), y_(y), noise_(noise) {
    product_.assign(n_ * n_, 1);
  }

  void multiply(const std::vector<double>& similarity, double weight) {
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        product_[i * n_ + j] *= 1 + weight * similarity[i * n_ + j];
      }
    }
  }
  void divide(const std::vector<double>& similarity, double weight) {
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        product_[i * n_ + j] /= 1 + weight * similarity[i * n_ + j];
      }
    }
  }

  // Log marginal likelihood less a constant; the factor and the inverse times y stay for whoever wants them.
  double likelihood(double amplitude) {
    factor_.resize(n_ * n_);
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        factor_[i * n_ + j] = amplitude * (product_[i * n_ + j] - 1 + kLevelVariance);
      }
      factor_[i * n_ + i] += noise_[i] * noise_[i];
    }
    if (!factorise(factor_, n_)) {
      return -std::numeric_limits<double>::infinity();
    }
    half_.assign(y_.begin(), y_.end());
    double sum = 0;
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j < i; ++j) {
        half_[i] -= factor_[i * n_ + j] * half_[j];
      }
      half_[i] /= factor_[i * n_ + i];
      sum -= half_[i] * half_[i] / 2 + std::log(factor_[i * n_ + i]);
    }
    return sum;
  }

  std::vector<double> inverse_times_y() const {
    std::vector<double> alpha = half_;
    for (size_t i = n_; i-- > 0;) {
      for (size_t j = i + 1; j < n_; ++j) {
        alpha[i] -= factor_[j * n_ + i] * alpha[j];
      }
      alpha[i] /= factor_[i * n_ + i];
    }
    return alpha;
  }
  std::vector<double> take_factor() { return std::move(factor_); }

 private:
  size_t n_;
  std::span<const double> y_, noise_;
  std::vector<double> product_, factor_, half_;
};

double log_prior(double value, double usual) {
  const double away = std::log(value / usual) / kPriorSpread;
  return -away * away / 2;
}

}  // namespace

Surrogate::Surrogate(const Space& space) {
  for (const Axis& axis : space.axes) {
    const size_t n = axis.values.size();
    std::vector<double> table(n * n, 0);
    for (size_t a = 0; a < n; ++a) {
      for (size_t b = 0; b < n; ++b) {
        const double apart = static_cast<double>(std::max(a, b) - std::min(a, b)) /
                             static_cast<double>(std::max<size_t>(n - 1, 1));
        table[a * n + b] = axis.ordered ? matern52(apart) : a == b ? 1 : 0;
      }
    }
    sizes_.push_back(n);
    tables_.push_back(std::move(table));
    prior_.push_back(kPriorWeight);
  }
}

double Surrogate::covariance(const Levels& a, const Levels& b) const {
  double product = 1;
  for (size_t axis = 0; axis < sizes_.size(); ++axis) {
    product *= 1 + weights_[axis] * similarity(axis, a[axis], b[axis]);
  }
  return amplitude_ * (product - 1 + kLevelVariance);
}

std::vector<double> Surrogate::similarities(size_t axis, std::span<const Levels> x) const {
  const size_t n = x.size();
  std::vector<double> all(n * n, 0);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      all[i * n + j] = similarity(axis, x[i][axis], x[j][axis]);
    }
  }
  return all;
}

void Surrogate::fit(std::span<const Levels> x, std::span<const double> y, std::span<const double> noise) {
  AR_CHECK(!x.empty() && x.size() == y.size() && y.size() == noise.size(), "nothing to fit");
  const size_t n = x.size();
  x_.assign(x.begin(), x.end());
  mean_ = 0;
  for (double value : y) {
    mean_ += value / static_cast<double>(n);
  }
  std::vector<double> centred(y.begin(), y.end());
  for (double& value : centred) {
    value -= mean_;
  }
  if (n <= kMostForWeights) {
    find_weights(x, centred, noise);
  } else {
    // A hundred factorisations: a sample says the same of the weights, evenly over the study.
    std::vector<Levels> some;
    std::vector<double> some_y, some_noise;
    for (size_t i = 0; i < kMostForWeights; ++i) {
      const size_t at = i * n / kMostForWeights;
      some.push_back(x[at]);
      some_y.push_back(centred[at]);
      some_noise.push_back(noise[at]);
    }
    find_weights(some, some_y, some_noise);
  }
  Fit whole(centred, noise);
  for (size_t axis = 0; axis < sizes_.size(); ++axis) {
    whole.multiply(similarities(axis, x), weights_[axis]);
  }
  const double last = whole.likelihood(amplitude_);
  AR_CHECK(std::isfinite(last), "a covariance with noise on its diagonal is positive definite");
  alpha_ = whole.inverse_times_y();
  factor_ = whole.take_factor();
}

void Surrogate::find_weights(std::span<const Levels> x, std::span<const double> centred,
                             std::span<const double> noise) {
  double variance = 0;
  for (double value : centred) {
    variance += value * value / static_cast<double>(x.size());
  }
  // Axes that have not moved among these points say nothing of their weight.
  std::vector<std::vector<double>> similar;
  std::vector<bool> moved(sizes_.size(), false);
  Fit fit(centred, noise);
  weights_ = prior_;
  double total = 1;
  for (size_t axis = 0; axis < sizes_.size(); ++axis) {
    similar.push_back(similarities(axis, x));
    for (const Levels& point : x) {
      moved[axis] = moved[axis] || point[axis] != x[0][axis];
    }
    fit.multiply(similar[axis], weights_[axis]);
    total *= 1 + weights_[axis];
  }
  const double usual = std::max(variance, kLeastVariance) / std::max(total - 1, 1e-6);
  amplitude_ = usual;
  double best = fit.likelihood(amplitude_);
  for (int round = 0; round < kRounds; ++round) {
    const double before = amplitude_;
    for (double step : kSteps) {
      double score = fit.likelihood(before * step) + log_prior(before * step, usual);
      for (size_t axis = 0; axis < sizes_.size(); ++axis) {
        score += log_prior(weights_[axis], prior_[axis]);
      }
      if (score > best) {
        best = score;
        amplitude_ = before * step;
      }
    }
    for (size_t axis = 0; axis < sizes_.size(); ++axis) {
      if (!moved[axis]) {
        continue;
      }
      const double kept = weights_[axis];
      double now = kept, chosen = kept;
      // `best` holds the priors of all weights as they were, this one's included.
      for (double step : kSteps) {
        const double tried = std::clamp(kept * step, kLeastWeight, kMostWeight);
        fit.divide(similar[axis], now);
        fit.multiply(similar[axis], tried);
        now = tried;
        double score = fit.likelihood(amplitude_) + log_prior(amplitude_, usual);
        for (size_t other = 0; other < sizes_.size(); ++other) {
          score += log_prior(other == axis ? tried : weights_[other], prior_[other]);
        }
        if (score > best) {
          best = score;
          chosen = tried;
        }
      }
      fit.divide(similar[axis], now);
      fit.multiply(similar[axis], chosen);
      weights_[axis] = chosen;
    }
  }
}

std::vector<Surrogate::Prediction> Surrogate::predict(std::span<const Levels> at) const {
  const size_t n = x_.size();
  std::vector<Prediction> result(at.size());
  std::vector<double> block(n * kBlock);
  double prior = 1;
  for (size_t axis = 0; axis < sizes_.size(); ++axis) {
    prior *= 1 + weights_[axis];
  }
  prior = amplitude_ * (prior - 1 + kLevelVariance);
  for (size_t start = 0; start < at.size(); start += kBlock) {
    const size_t width = std::min(kBlock, at.size() - start);
    std::array<double, kBlock> mean{}, explained{};
    for (size_t i = 0; i < n; ++i) {
      double* row = &block[i * kBlock];
      for (size_t c = 0; c < width; ++c) {
        row[c] = covariance(x_[i], at[start + c]);
        mean[c] += row[c] * alpha_[i];
      }
      for (size_t j = 0; j < i; ++j) {
        const double l = factor_[i * n + j];
        const double* above = &block[j * kBlock];
        for (size_t c = 0; c < kBlock; ++c) {
          row[c] -= l * above[c];
        }
      }
      for (size_t c = 0; c < kBlock; ++c) {
        row[c] /= factor_[i * n + i];
        explained[c] += row[c] * row[c];
      }
    }
    for (size_t c = 0; c < width; ++c) {
      result[start + c] = {mean_ + mean[c], std::sqrt(std::max(prior - explained[c], 1e-12))};
    }
  }
  return result;
}

}  // namespace search
