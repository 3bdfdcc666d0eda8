#pragma once
// How far a measured speed can be trusted, and whether the machine drifts. Pure; everything is on the log scale, so
// that a sigma of 0.05 reads as 5%.
//
// Repeats inside one launch are pseudo-replicates: the variance of one launch's median is
//   launch-to-launch + within / n,
// the first pooled over every configuration that was launched more than once (anchors, finals), the second over
// all launches of the study, since a MAD of three samples is noise itself.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace study {

class Noise {
 public:
  // Before there is data: a launch is taken to scatter by 3%, the weight of two launches.
  static constexpr double kPriorSigma = 0.03;
  static constexpr double kPriorFreedom = 2;

  // One launch of `config` (any number that names it): the objective's last entry or a speed, drift already taken
  // out; not positive or not finite: ignored.
  void add_launch(uint64_t config, double value);
  // The samples inside one launch: their median, MAD (scaled to a sigma) and number. Fewer than three, or a MAD
  // of 0, say nothing.
  void add_samples(double median, double mad, int n_samples);

  // Relative standard error of one launch's median of so many samples.
  double relative_se(int n_samples) const;
  // The same for a mean over launches.
  double relative_se(int n_samples, int launches) const;
  // What relative_se() stays below with 80% confidence: for planning, since an estimate from few launches is too
  // low every other time.
  double cautious_se(int n_samples) const;
  // Launches beyond the first of their configuration: what the pooled value rests on.
  double freedom() const { return freedom_; }
  // Likewise, with the prior's weight.
  double total_freedom() const { return kPriorFreedom + freedom_; }

 private:
  struct Launches {
    double sum = 0, squares = 0;  // of logs, around `origin` so that nothing cancels
    double origin = 0;
    int n = 0;
  };
  double observed_variance() const;  // of one launch, as launches scatter; the prior mixed in
  double within_variance() const;    // of one sample; 0 while unknown

  std::map<uint64_t, Launches> by_config_;
  double squares_ = 0, freedom_ = 0;                // pooled over configurations
  double within_squares_ = 0, within_freedom_ = 0;  // likewise, over samples
  double samples_ = 0, sampled_launches_ = 0;       // for the usual number of samples
};

// Whether the machine got slower or faster, judged by the default's launches in the order they ran.
struct Drift {
  double factor = 1;  // the machine's speed now, over what it was at first; 1 unless flagged
  bool flagged = false;
};
// `anchors`: the same speed of each launch of the default so far, the first one included. The level of the last
// launches against the first ones; flagged beyond 3.5 standard errors and 2%. Noise is taken from successive
// differences, which a slow drift hardly touches. Fewer than three: never flagged.
Drift drift_of(std::span<const double> anchors);

}  // namespace study
