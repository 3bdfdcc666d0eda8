#include "src/study/racing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace study {
namespace {

bool about_answers(const search::Expression& limit) {
  auto names = limit.names();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    const MetricInfo* metric = find_metric(name);
    return metric != nullptr &&
           (metric->probe == "quality" || metric->probe == "needle" || metric->probe == "perplexity");
  });
}

}  // namespace

std::optional<Failure> broken_limit(const Study& study, const TrialMetrics& so_far,
                                    const TrialMetrics* default_trial, std::span<const TrialMetrics> others,
                                    double sigma) {
  // Both this trial and the default it is compared with scatter; an expression may want much or little.
  double room = std::exp(kRaceSigmas * sigma * std::sqrt(2.0));
  const TrialMetrics faster = slowed(so_far, 1 / room), slower = slowed(so_far, room);
  for (const search::Expression& limit : study.objective.subject_to) {
    auto broken = [&](const TrialMetrics& trial) {
      auto holds = limit_holds(study, limit, trial, default_trial);
      return holds && !*holds;
    };
    if (broken(so_far) && broken(faster) && broken(slower)) {
      return Failure{about_answers(limit) ? Status::kQualityFail : Status::kPruned,
                     "ended early: " + broken_limit_text(study, limit, so_far, default_trial)};
    }
  }
  if (!so_far.quality_items.empty()) {
    std::string lost = broken_quality(study, so_far, default_trial, others);
    if (!lost.empty()) {
      return Failure{Status::kQualityFail, "ended early: " + lost};
    }
  }
  return std::nullopt;
}

std::optional<Failure> cannot_win(const Study& study, const TrialMetrics& so_far,
                                  const TrialMetrics* default_trial, const std::vector<double>& incumbent,
                                  int launches, double sigma) {
  double error = sigma * std::sqrt(1 + 1.0 / std::max(launches, 1));
  double room = std::exp(kRaceSigmas * error);
  const TrialMetrics faster = slowed(so_far, 1 / room), slower = slowed(so_far, room);
  const auto& entries = study.objective.maximize;
  for (size_t i = 0; i < std::min(entries.size(), incumbent.size()); ++i) {
    auto seen = entry_value(study, entries[i], so_far, default_trial);
    auto high = entry_value(study, entries[i], faster, default_trial);
    auto low = entry_value(study, entries[i], slower, default_trial);
    if (!seen || !high || !low) {
      return std::nullopt;
    }
    double best = std::max({*seen, *high, *low});
    bool last = i + 1 == entries.size();
    double tolerance = last ? 0 : search::kObjectiveTolerance * std::fabs(incumbent[i]);
    if (best < incumbent[i] - tolerance) {
      return Failure{Status::kPruned,
                     fmt::format("ended early: {} {:.4g} cannot reach the best so far, {:.4g}",
                                 entries[i].text(), *seen, incumbent[i])};
    }
    if (best > incumbent[i] + tolerance) {
      return std::nullopt;  // may be ahead already: the later entries do not matter
    }
  }
  return std::nullopt;
}

}  // namespace study
