#include "src/study/verdict.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace study {
namespace {

constexpr double kPower = 0.95;
constexpr double kUsualEffect = 0.1;
constexpr double kAgreeSigmas = 2.5;

double normal_cdf(double z) {
  return 0.5 * std::erfc(-z / std::sqrt(2.0));
}

double mean_of(const std::vector<double>& values) {
  double mean = 0;
  for (double value : values) {
    mean += value / static_cast<double>(values.size());
  }
  return mean;
}

}  // namespace

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

double student_t95(int freedom) {
  constexpr std::array<double, 12> kT = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447,
                                         2.365,  2.306, 2.262, 2.228, 2.201, 2.179};
  return freedom <= static_cast<int>(kT.size()) ? kT[static_cast<size_t>(std::max(freedom, 1) - 1)]
                                                : 1.96 + 2.8 / freedom;
}

Comparison compare_logs(const std::vector<double>& logs) {
  Comparison result;
  result.pairs = static_cast<int>(logs.size());
  if (logs.empty()) {
    return result;
  }
  double mean = mean_of(logs);
  double half = INFINITY;
  if (logs.size() > 1) {
    double sum = 0;
    for (double value : logs) {
      sum += (value - mean) * (value - mean);
    }
    double n = static_cast<double>(logs.size());
    half = student_t95(result.pairs - 1) * std::sqrt(sum / (n - 1) / n);
  }
  result.ratio = std::exp(mean);
  result.low = std::exp(mean - half);
  result.high = std::exp(mean + half);
  return result;
}

Comparison compare_pairs(const std::vector<double>& winner, const std::vector<double>& baseline) {
  std::vector<double> logs;
  for (size_t i = 0; i < std::min(winner.size(), baseline.size()); ++i) {
    if (winner[i] > 0 && baseline[i] > 0) {
      logs.push_back(std::log(winner[i] / baseline[i]));
    }
  }
  return compare_logs(logs);
}

Blocks blocks_of(const std::vector<InPlaceLaunch>& launches) {
  Blocks blocks;
  double sum = 0;
  bool usable = true;
  for (const InPlaceLaunch& launch : launches) {
    blocks.restarts += launch.cold ? 1 : 0;
    bool winner_turn = blocks.step == 1 || blocks.step == 2;
    if (launch.cold || launch.winner != winner_turn) {
      blocks.step = 0;
      if (launch.cold || launch.winner) {
        continue;
      }
    }
    if (blocks.step == 0) {
      sum = 0;
      usable = true;
    }
    usable &= launch.value > 0;
    sum += (launch.winner ? 1 : -1) * std::log(std::max(launch.value, 1e-300));
    if (++blocks.step < 4) {
      continue;
    }
    blocks.step = 0;
    ++blocks.complete;
    if (usable) {
      blocks.logs.push_back(sum / 2);
    }
  }
  return blocks;
}

int pairs_needed(double effect, double sd, int least, int most) {
  for (int n = least; n < most; ++n) {
    double freedom = std::max(n - 1, 1);
    double t = student_t95(n - 1);
    // Normal approximation of the noncentral t.
    double power = normal_cdf((effect / sd * std::sqrt(n) - t) / std::sqrt(1 + t * t / (2 * freedom)));
    if (power >= kPower) {
      return n;
    }
  }
  return most;
}

double shrunk_effect(double seen, double error) {
  double prior = kUsualEffect * kUsualEffect;
  return seen * prior / (prior + error * error);
}

bool cold_agrees(const Comparison& blocks, const Comparison& cold, double process_sigma, double freedom) {
  if (cold.pairs == 0 || blocks.pairs == 0) {
    return false;
  }
  double se_cold = process_sigma * std::sqrt(2.0 / cold.pairs);
  double t = student_t95(blocks.pairs - 1);
  double se_blocks = blocks.pairs > 1 ? std::log(blocks.high / blocks.ratio) / t : se_cold;
  double sigmas = kAgreeSigmas * student_t95(static_cast<int>(freedom)) / 1.96;
  return std::fabs(std::log(cold.ratio / blocks.ratio)) <= sigmas * std::hypot(se_cold, se_blocks);
}

}  // namespace study
