#pragma once
// What trials take on this machine, learnt as they end, and so how much of the time must be kept for the end of the
// study. Pure: no clock; seconds throughout.

#include <vector>

namespace study {

struct TrialTimes {
  bool cold = true;         // a fresh process: loaded, not reconfigured
  bool speed_only = false;  // anchor, final, confirmation
  double load_s = 0;        // or reconfiguring; 0 = not reached
  double measure_s = 0;     // 0 = not reached
  double total_s = 0;
};

class Pace {
 public:
  void learn(const TrialTimes& times);
  // Anything learnt at all; estimates are 0 before.
  bool knows() const { return !totals_.empty(); }
  // A search trial, cautiously: nine of ten take at most this, as far as they have been seen.
  double search_trial_s() const;
  // A launch that measures speed alone; from whole trials while none was seen.
  double speed_trial_s(bool cold) const;

 private:
  std::vector<double> totals_;              // of search trials
  std::vector<double> cold_, in_place_;     // totals of speed-only trials
  std::vector<double> load_, reconfigure_;  // of any trial
  std::vector<double> rest_;                // whole trials without load: an upper bound
};

// What stays for finals and confirmation. `finals` and `confirmation` in seconds as wished for, `least` what a
// confirmation needs at the very least (three pairs), `limit` the whole session: no more than 40% of it for wishes, but
// the least as long as it is not over 60%.
double reserve_s(double finals, double confirmation, double least, double limit);

}  // namespace study
