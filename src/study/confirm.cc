// The arithmetic of confirmation, apart from the loop that collects its samples.

#include <algorithm>
#include <array>
#include <cmath>

#include "src/study/loop.h"

namespace study {

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kConfirmed:
      return "confirmed";
    case Verdict::kDefaultStands:
      return "default_stands";
    case Verdict::kUnconfirmed:
      return "unconfirmed";
    case Verdict::kNoFeasible:
      return "no_feasible";
  }
  return "unknown";
}

Comparison compare_pairs(const std::vector<double>& winner, const std::vector<double>& baseline) {
  // Student's t, two-sided 95%, by degrees of freedom.
  constexpr std::array<double, 9> kT = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
  std::vector<double> logs;
  for (size_t i = 0; i < std::min(winner.size(), baseline.size()); ++i) {
    if (winner[i] > 0 && baseline[i] > 0) {
      logs.push_back(std::log(winner[i] / baseline[i]));
    }
  }
  Comparison result;
  result.pairs = static_cast<int>(logs.size());
  if (logs.empty()) {
    return result;
  }
  double mean = 0;
  for (double value : logs) {
    mean += value / static_cast<double>(logs.size());
  }
  double half = INFINITY;
  if (logs.size() > 1) {
    double sum = 0;
    for (double value : logs) {
      sum += (value - mean) * (value - mean);
    }
    double n = static_cast<double>(logs.size());
    double t = logs.size() - 2 < kT.size() ? kT[logs.size() - 2] : 2.1;
    half = t * std::sqrt(sum / (n - 1) / n);
  }
  result.ratio = std::exp(mean);
  result.low = std::exp(mean - half);
  result.high = std::exp(mean + half);
  return result;
}

}  // namespace study
