#pragma once
// From what a trial measured to what the search sees: the objective vector, whether every limit holds, and
// which do not. Pure. A metric that was not measured makes a trial infeasible and says so; it is never a 0.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "search/strategy.h"
#include "src/study/study.h"

namespace study {

// One row per metric a space file may name; `probe` is what measures it: quality, speed, needle,
// perplexity, half_context, curve, memory, load.
struct MetricInfo {
  std::string_view name, probe, meaning;
  double low = 0, high = 0;  // what it can be; high == low: no upper end is known
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

// For Strategy::tell: ok, with the judgement's objective. Its noise is the loop's to fill in.
search::Outcome outcome_of(const Study& study, const Judgement& judgement, const TrialMetrics& trial);

// One entry to maximise; nullopt where part of it was not measured (yet).
std::optional<double> entry_value(const Study& study, const search::Expression& expression,
                                  const TrialMetrics& trial, const TrialMetrics* default_trial);
// One limit; nullopt where it cannot be told (yet).
std::optional<bool> limit_holds(const Study& study, const search::Expression& limit,
                                const TrialMetrics& trial, const TrialMetrics* default_trial);
// "decode_tps >= 10 does not hold (decode_tps 9)"
std::string broken_limit_text(const Study& study, const search::Expression& limit, const TrialMetrics& trial,
                              const TrialMetrics* default_trial);
// Of "quality not_worse_than T": "" where it holds; for a trial whose quality was measured.
std::string broken_quality(const Study& study, const TrialMetrics& trial, const TrialMetrics* default_trial,
                           std::span<const TrialMetrics> others);
// Whether the trial can be the reference of "quality not_worse_than T": judge() needs no others.
bool is_reference(const Study& study, const TrialMetrics& trial);

// The same trial on a machine `factor` times as slow: speeds divided, times to the first token multiplied.
TrialMetrics slowed(TrialMetrics trial, double factor);
bool depends_on_speed(const search::Expression& expression);
// The speed that tells how fast the machine is: the objective's last entry where it is a speed itself, else
// decode_tps; nullopt when not measured.
std::optional<double> speed_level(const Study& study, const TrialMetrics& trial);

}  // namespace study
