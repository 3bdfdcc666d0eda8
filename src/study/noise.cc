#include "src/study/noise.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace study {
namespace {

constexpr double kFlagSigmas = 3.5;
constexpr double kLeastDrift = 0.02;
// A median's variance over a mean's, for a handful of normal samples (pi / 2 for many).
constexpr double kMedianLoss = 1.4;

// A MAD of few samples is too small; factors of Croux and Rousseeuw (1992) for 2..9 samples.
double mad_correction(int n) {
  constexpr std::array<double, 8> kFactors = {1.196, 1.495, 1.363, 1.206, 1.200, 1.140, 1.129, 1.107};
  return n < 10 ? kFactors[static_cast<size_t>(std::max(n, 2) - 2)] : n / (n - 0.8);
}

bool usable(double value) {
  return std::isfinite(value) && value > 0;
}

double mean_of_logs(std::span<const double> values) {
  double sum = 0;
  for (double value : values) {
    sum += std::log(value);
  }
  return sum / static_cast<double>(values.size());
}

}  // namespace

void Noise::add_launch(uint64_t config, double value) {
  if (!usable(value)) {
    return;
  }
  Launches& launches = by_config_[config];
  if (launches.n == 0) {
    launches.origin = std::log(value);
  }
  auto squares_of = [](const Launches& of) { return of.n < 2 ? 0 : of.squares - of.sum * of.sum / of.n; };
  double before = squares_of(launches);
  double offset = std::log(value) - launches.origin;
  launches.sum += offset;
  launches.squares += offset * offset;
  ++launches.n;
  squares_ += squares_of(launches) - before;
  freedom_ += launches.n > 1 ? 1 : 0;
}

void Noise::add_samples(double median, double mad, int n_samples) {
  if (!usable(median) || !usable(mad) || n_samples < 3) {
    return;
  }
  double sigma = mad_correction(n_samples) * mad / median;
  within_squares_ += sigma * sigma * (n_samples - 1);
  within_freedom_ += n_samples - 1;
  samples_ += n_samples;
  sampled_launches_ += 1;
}

double Noise::observed_variance() const {
  double prior = kPriorSigma * kPriorSigma;
  return (kPriorFreedom * prior + std::max(squares_, 0.0)) / (kPriorFreedom + freedom_);
}

double Noise::within_variance() const {
  return within_freedom_ > 0 ? within_squares_ / within_freedom_ : 0;
}

double Noise::relative_se(int n_samples) const {
  double within = within_variance() * kMedianLoss;
  double usual = sampled_launches_ > 0 ? samples_ / sampled_launches_ : 1;
  double launch = std::max(0.0, observed_variance() - within / usual);
  double n = n_samples > 0 ? n_samples : usual;
  return std::sqrt(launch + within / n);
}

double Noise::relative_se(int n_samples, int launches) const {
  return relative_se(n_samples) / std::sqrt(std::max(launches, 1));
}

double Noise::cautious_se(int n_samples) const {
  // Wilson and Hilferty's approximation of chi-squared's 20% quantile.
  constexpr double kZ = -0.8416;
  double freedom = kPriorFreedom + freedom_;
  double spread = 2 / (9 * freedom);
  double quantile = freedom * std::pow(std::max(1 - spread + kZ * std::sqrt(spread), 0.1), 3);
  return relative_se(n_samples) * std::sqrt(freedom / quantile);
}

Drift drift_of(std::span<const double> anchors) {
  std::vector<double> known;
  std::copy_if(anchors.begin(), anchors.end(), std::back_inserter(known), usable);
  if (known.size() < 3) {
    return {};
  }
  // Half of them at most on either side, three at most: the level then and now.
  size_t each = std::min<size_t>(3, known.size() / 2);
  std::span<const double> all(known);
  double then = mean_of_logs(all.first(each));
  double now = mean_of_logs(all.last(each));
  double squares = 0;
  for (size_t i = 1; i < known.size(); ++i) {
    double step = std::log(known[i] / known[i - 1]);
    squares += step * step / 2;
  }
  double prior = Noise::kPriorSigma * Noise::kPriorSigma;
  double variance = (Noise::kPriorFreedom * prior + squares) /
                    (Noise::kPriorFreedom + static_cast<double>(known.size() - 1));
  double error = std::sqrt(2 * variance / static_cast<double>(each));
  double change = now - then;
  if (std::fabs(change) < kLeastDrift || std::fabs(change) < kFlagSigmas * error) {
    return {};
  }
  return {std::exp(change), true};
}

}  // namespace study
