#include "src/base/stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace base {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double mean(std::span<const double> samples) {
  if (samples.empty()) {
    return kNan;
  }
  return std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
}

double median(std::span<const double> samples) {
  return quantile(samples, 0.5);
}

double quantile(std::span<const double> samples, double p) {
  if (samples.empty()) {
    return kNan;
  }
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  double at = std::clamp(p, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  size_t below = static_cast<size_t>(at);
  size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double mad(std::span<const double> samples) {
  double centre = median(samples);
  std::vector<double> distances;
  distances.reserve(samples.size());
  for (double sample : samples) {
    distances.push_back(std::abs(sample - centre));
  }
  return 1.4826 * median(distances);
}

double stddev(std::span<const double> samples) {
  if (samples.size() < 2) {
    return kNan;
  }
  double centre = mean(samples);
  double sum = 0;
  for (double sample : samples) {
    sum += (sample - centre) * (sample - centre);
  }
  return std::sqrt(sum / static_cast<double>(samples.size() - 1));
}

}  // namespace base
