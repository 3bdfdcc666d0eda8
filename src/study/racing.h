#pragma once
// When a trial need not be measured to its end: a limit is broken beyond noise, or it can no longer win. Pure. Asked
// after whole probes only, so that the number of samples is fixed beforehand.

#include <optional>
#include <span>
#include <vector>

#include "src/study/objective.h"
#include "src/study/status.h"

namespace study {

// How many standard errors a result must be off before a trial is ended for it.
inline constexpr double kRaceSigmas = 3;

// kQualityFail where the answers are what broke a limit, kPruned for any other; nullopt: nothing is broken for sure.
// `so_far` with drift taken out, `sigma` the relative standard error of one launch's speeds.
std::optional<Failure> broken_limit(const Study& study, const TrialMetrics& so_far,
                                    const TrialMetrics* default_trial, std::span<const TrialMetrics> others,
                                    double sigma);

// kPruned when even its optimistic bound stays below the incumbent's objective (`launches` of them behind it), judged
// by the entries known so far; nullopt: it may still win.
std::optional<Failure> cannot_win(const Study& study, const TrialMetrics& so_far,
                                  const TrialMetrics* default_trial, const std::vector<double>& incumbent,
                                  int launches, double sigma);

}  // namespace study
