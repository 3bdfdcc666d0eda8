#include "src/study/pace.h"

#include <algorithm>
#include <cmath>

#include "src/base/stats.h"

namespace study {
namespace {

constexpr size_t kRemembered = 64;  // the latest count: late trials resemble each other
constexpr double kWishesShare = 0.4, kLeastShare = 0.6;

void remember(std::vector<double>& times, double seconds) {
  if (times.size() == kRemembered) {
    times.erase(times.begin());
  }
  times.push_back(seconds);
}

double typical(const std::vector<double>& times) {
  return times.empty() ? 0 : base::median(times);
}

// The last launches of a night must not run late: as long as the longest of late, more where times scatter.
double cautious(const std::vector<double>& times) {
  if (times.empty()) {
    return 0;
  }
  const double longest = *std::max_element(times.begin(), times.end());
  return std::max(base::quantile(times, 0.9),
                  std::min(longest * 1.05, typical(times) + 3 * base::mad(times)));
}

}  // namespace

void Pace::learn(const TrialTimes& times) {
  if (!std::isfinite(times.total_s) || times.total_s <= 0) {
    return;
  }
  if (times.load_s > 0) {
    remember(times.cold ? load_ : reconfigure_, times.load_s);
  }
  if (times.speed_only) {
    if (times.measure_s > 0) {  // one that failed at load says nothing of the others
      remember(times.cold ? cold_ : in_place_, times.total_s);
    }
    return;
  }
  remember(totals_, times.total_s);
  if (times.measure_s > 0) {
    remember(rest_, std::max(0.0, times.total_s - times.load_s));
  }
}

double Pace::search_trial_s() const {
  return cautious(totals_);
}

double Pace::speed_trial_s(bool cold) const {
  const std::vector<double>& seen = cold ? cold_ : in_place_;
  if (!seen.empty()) {
    return cautious(seen);
  }
  const std::vector<double>& other = cold ? in_place_ : cold_;
  if (!other.empty()) {
    // The same measurement after another start.
    double start = cold ? cautious(load_) - typical(reconfigure_) : typical(reconfigure_) - typical(load_);
    return std::max(typical(other) * 0.1, cautious(other) + (cold || !reconfigure_.empty() ? start : 0));
  }
  return rest_.empty() ? cautious(totals_)
                       : (cold ? cautious(load_) : typical(reconfigure_)) + cautious(rest_);
}

double reserve_s(double finals, double confirmation, double least, double limit) {
  if (limit <= 0) {
    return 0;
  }
  double wished = std::min(finals + confirmation, limit * kWishesShare);
  return std::max(wished, std::min(least, limit * kLeastShare));
}

}  // namespace study
