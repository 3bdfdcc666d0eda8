#pragma once
// From what a trial measured to what the search sees: the objective vector, whether every limit holds, and
// which do not. Pure. A metric that was not measured makes a trial infeasible and says so; it is never a 0.

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "search/strategy.h"
#include "src/study/study.h"

namespace study {

// One row per metric a space file may name; `probe` is what measures it: quality, speed, needle,
// half_context, curve, memory, load.
struct MetricInfo {
  std::string_view name, probe, meaning;
};
std::span<const MetricInfo> metric_table();
const MetricInfo* find_metric(std::string_view name);

// What one trial that ran to its end measured, by the names of metric_table(). Absent (or NaN) = not
// measured.
struct TrialMetrics {
  search::Config config;  // in the axes' order of study.space
  std::map<std::string, double> values;
  std::map<std::string, bool> quality_items;  // item id -> passed
};

struct Judgement {
  std::vector<double> objective;        // to maximise, in the file's order; empty when part was not measured
  bool feasible = false;                // the objective is there and every limit holds
  std::vector<std::string> violations;  // one sentence each, for the journal and the report
};

// `default_trial`: the default configuration's measurements, nullptr when it failed or has not run; a trial
// of the default configuration is its own default. `others`: every finished trial so far, among which the
// reference of "quality not_worse_than T" is looked for (same configuration with both cache types T); where
// there is none the default trial is the reference.
Judgement judge(const Study& study, const TrialMetrics& trial, const TrialMetrics* default_trial,
                std::span<const TrialMetrics> others);

// For Strategy::tell: ok, with the judgement's objective. Its noise is known where the last entry to maximise is
// decode_tps itself: its MAD (scaled to a sigma) over its median and the root of its samples' number.
search::Outcome outcome_of(const Study& study, const Judgement& judgement, const TrialMetrics& trial);

}  // namespace study
