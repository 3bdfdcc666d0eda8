#include "src/study/recorded_grid.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "src/os/host.h"
#include "src/study/header.h"
#include "src/study/record.h"
#include "src/study/session.h"

namespace study {
namespace {

// The constraints, in no order, and when each axis counts.
std::vector<std::string> rules(const search::Space& space) {
  std::vector<std::string> texts;
  for (const search::Expression& constraint : space.constraints) {
    texts.push_back(constraint.text());
  }
  for (const search::Axis& axis : space.axes) {
    if (axis.active_when) {
      texts.push_back(axis.name + ": " + axis.active_when->text());
    }
  }
  std::sort(texts.begin(), texts.end());
  return texts;
}

// Which stretch of a recording a trial ran in: search and each round of repeats, by themselves. Anchors lie within one.
class Rounds {
 public:
  int of(const base::Json& end) {
    const std::string phase = base::json_get<std::string>(end, "phase", "");
    int kind = 1;
    if (phase == kAnchorPhase) {
      return round_;
    }
    if (phase == kRepeatPhase) {
      kind = 1 + ++repeats_[base::json_get<std::string>(end, "params_hash", "")];
    } else if (is_repeated(phase)) {
      kind = 0;  // finals and confirmation
    }
    round_ += kind != kind_ ? 1 : 0;
    kind_ = kind;
    return round_;
  }

 private:
  std::map<std::string, int> repeats_;  // of each configuration, so far
  int round_ = 0, kind_ = 1;
};

// As measured, the drift that the study took out put back: it lags behind the machine by some anchors, and a grid with
// repeats tells better by itself (search/machine_level.h).
void put_drift_back(const Study& study, const base::Json& end, search::Outcome& outcome) {
  const double drift = base::json_get<double>(end, "drift", 1);
  const auto measured = metrics_of(study.space, end);
  if (!measured || drift == 1 || !(drift > 0)) {
    return;
  }
  const TrialMetrics judged = slowed(*measured, drift);
  for (size_t i = 0; i < std::min(outcome.objective.size(), study.objective.maximize.size()); ++i) {
    // Where it is made of the default's speeds, they do not matter to the ratio.
    const auto& entry = study.objective.maximize[i];
    const auto raw = entry_value(study, entry, *measured, &*measured);
    const auto steady = entry_value(study, entry, judged, &*measured);
    if (depends_on_speed(entry) && raw && steady && *raw / *steady > 0 && std::isfinite(*raw / *steady)) {
      outcome.objective[i] *= *raw / *steady;
    }
  }
}

// The speed at which a limit breaks, seen from what was measured: by how much (a logarithm) it may fall.
double margin_of(const Study& study, const search::Expression& limit, const TrialMetrics& measured,
                 const TrialMetrics* usual) {
  constexpr double kMost = 7;  // a thousandfold
  auto holds = [&](double fall) {
    const TrialMetrics there = slowed(measured, std::exp(fall));
    return limit_holds(study, limit, there, usual).value_or(false);
  };
  const bool now = holds(0);
  double inside = 0, outside = now ? kMost : -kMost;
  if (holds(outside) == now) {
    return now ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  }
  for (int step = 0; step < 40; ++step) {
    const double middle = (inside + outside) / 2;
    (holds(middle) == now ? inside : outside) = middle;
  }
  return now ? inside : outside;
}

// Of all launches of each configuration: what it measured, its speeds the mean.
class Measured {
 public:
  void add(const std::string& key, TrialMetrics metrics) {
    auto [at, fresh] = by_key_.try_emplace(key);
    for (const char* name : {"decode_tps", "prefill_tps", "decode_tps_at_half_context", "ttft_ms"}) {
      if (auto value = metrics.values.find(name); value != metrics.values.end() && value->second > 0) {
        auto& [sum, n] = at->second.speeds[name];
        sum += std::log(value->second);
        metrics.values[name] = std::exp(sum / ++n);
      }
    }
    if (!fresh) {  // of repeats the speed alone was measured
      metrics.values.merge(at->second.metrics.values);
    }
    at->second.metrics = std::move(metrics);
  }
  const TrialMetrics* find(const std::string& key) const {
    auto at = by_key_.find(key);
    return at == by_key_.end() ? nullptr : &at->second.metrics;
  }

 private:
  struct Known {
    TrialMetrics metrics;
    std::map<std::string, std::pair<double, int>> speeds;  // sum of logarithms, number
  };
  std::map<std::string, Known> by_key_;
};

// Which limits on speeds luck may break or make hold, by how much of it.
void set_margins(const Study& study, const Measured& measured, search::RecordedGrid& grid) {
  const auto& limits = study.objective.subject_to;
  if (std::none_of(limits.begin(), limits.end(), depends_on_speed)) {
    return;
  }
  const TrialMetrics* usual =
      measured.find(search::key_of(study.space.canonical(study.space.default_config())));
  for (const search::RecordedGrid::Point& point : std::vector(grid.points())) {
    const TrialMetrics* metrics = measured.find(search::key_of(point.config));
    if (metrics == nullptr || point.outcome.objective.empty()) {
      continue;
    }
    search::RecordedGrid::Margin margin;
    bool otherwise = !point.outcome.feasible && !study.objective.quality_not_worse_than.empty();
    for (const search::Expression& limit : limits) {
      const auto names = limit.names();
      const bool relative = std::any_of(names.begin(), names.end(),
                                        [](const std::string& name) { return name.starts_with("default."); });
      if (depends_on_speed(limit)) {
        double& least = relative ? margin.to_default : margin.alone;
        least = std::min(least, margin_of(study, limit, *metrics, usual));
      } else {
        otherwise = otherwise || !limit_holds(study, limit, *metrics, usual).value_or(false);
      }
    }
    if (!(otherwise && !point.outcome.feasible)) {
      grid.set_margin(point.config, margin);
    }
  }
}

}  // namespace

base::Result<search::RecordedGrid> recorded_grid(const Study& study, const JournalContent& journal,
                                                 const std::string& where) {
  std::vector<bool> noisy;
  for (const search::Expression& entry : study.objective.maximize) {
    noisy.push_back(depends_on_speed(entry));
  }
  search::RecordedGrid grid(study.space, noisy, study.objective.pareto);
  const auto ends = journal.of_type("trial_end");
  const bool repeated = std::any_of(ends.begin(), ends.end(), [](const base::Json* end) {
    return base::json_get<std::string>(*end, "phase", "") == kRepeatPhase;
  });
  Rounds rounds;
  std::vector<std::pair<std::string, std::optional<TrialMetrics>>> launches;
  size_t width = 0;  // of every objective: from a journal that was changed by hand they may differ
  for (const base::Json* end : ends) {
    const std::string trial = fmt::format("{}: trial {}", where, base::json_get<int>(*end, "trial_id", 0));
    auto config = search::from_json(study.space, end->value("params", base::Json::object()));
    if (!config) {
      return base::error(trial, config.failure().to_string(),
                         "the journal does not fit its own space; record it again");
    }
    search::Outcome outcome = outcome_of_end(study, *end);
    if (!outcome.objective.empty()) {
      width = width == 0 ? outcome.objective.size() : width;
      if (outcome.objective.size() != width) {
        return base::error(trial, "its objective has another number of entries than those before",
                           "record it again");
      }
    }
    if (repeated) {
      put_drift_back(study, *end, outcome);
    }
    outcome.noise = 0;  // repeats are pooled evenly
    grid.add(*config, outcome, rounds.of(*end));
    if (!outcome.predicted) {
      auto metrics = metrics_of(study.space, *end);
      const double drift = base::json_get<double>(*end, "drift", 1);
      if (metrics && !repeated && drift > 0) {
        metrics = slowed(std::move(*metrics), drift);
      }
      launches.emplace_back(search::key_of(study.space.canonical(*config)), std::move(metrics));
    }
  }
  grid.finish();
  Measured measured;
  for (size_t i = 0; i < launches.size(); ++i) {
    if (auto& [key, metrics] = launches[i]; metrics) {
      measured.add(key, slowed(std::move(*metrics), std::exp(grid.level(i))));
    }
  }
  set_margins(study, measured, grid);
  const auto census = grid.census();
  if (census.points < 2 || census.feasible == 0) {
    return base::error(
        where, fmt::format("holds {} configurations, {} of them feasible", census.points, census.feasible),
        "record a grid first: `autoresearch run` with `search: {strategy: grid}`");
  }
  return grid;
}

base::Result<LoadedGrid> load_grid(const std::string& path) {
  auto journal = load_journal(path);
  if (!journal) {
    return journal.failure();
  }
  auto study = study_of_header(journal->header);
  if (!study) {
    return study.failure();
  }
  warn_of_edits(*study, *journal, path);
  auto grid = recorded_grid(*study, *journal, path);
  if (!grid) {
    return grid.failure();
  }
  const auto ends = journal->of_type("study_end");
  const bool finished = !ends.empty() && base::json_get<bool>(*ends.back(), "finished", false);
  const bool unfinished = study->search.strategy == "grid" && !finished;
  return LoadedGrid{path, std::move(journal->header), std::move(*study), std::move(*grid), unfinished};
}

std::string other_search(const Study& study, const base::Json& header) {
  if (!header.is_object()) {
    return "axes, values or defaults";
  }
  // The space text alone is protected by a hash, and is what is replayed; what a header says beside it may have been edited.
  auto then = study_of_header(header);
  if ((then ? axes_json(then->space) : header.value("axes", base::Json())) != axes_json(study.space)) {
    return "axes, values or defaults";
  }
  const base::Json mine = objective_json(study.objective);
  const base::Json theirs = then ? objective_json(then->objective) : header.value("objective", base::Json());
  if (!theirs.is_object() || theirs.value("maximize", base::Json()) != mine["maximize"] ||
      base::json_get<bool>(theirs, "pareto", false) != study.objective.pareto) {
    return "an objective";
  }
  if (theirs.value("subject_to", base::Json::array()) != mine["subject_to"]) {
    return "limits (subject_to)";
  }
  return !then || rules(then->space) == rules(study.space) ? "" : "constraints";
}

std::string recorded_elsewhere(const Study& study, const base::Json& header) {
  std::vector<std::string> differences;
  auto compare = [&](std::string_view what, const std::string& then, const std::string& now) {
    if (then != now && !then.empty() && !now.empty()) {
      differences.push_back(fmt::format("{} {} instead of {}", what, then, now));
    }
  };
  auto part = [&](const char* name) {
    base::Json facts = header.is_object() ? header.value(name, base::Json::object()) : base::Json::object();
    return facts.is_object() ? facts : base::Json::object();
  };
  auto of = [&](const char* name, const char* fact) {
    return base::json_get<std::string>(part(name), fact, "");
  };
  auto file = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  if (study.space.find("model") == nullptr) {
    compare("the model", file(of("model", "path")), file(study.model));
  }
  compare("the server", of("binary", "kind"), std::string(to_string(study.backend.kind)));
  const os::HostFacts here = os::read_host_facts();
  compare("the processor", of("host", "cpu_model"), here.cpu_model);
  if (part("host").value("gpus", base::Json::array()) != base::Json(here.gpus)) {
    differences.emplace_back("other GPUs");
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

}  // namespace study
