#include "src/study/recorded_grid.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

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
  }
  grid.finish();
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
  return LoadedGrid{path, std::move(journal->header), std::move(*study), std::move(*grid)};
}

std::string other_search(const Study& study, const base::Json& header) {
  if (!header.is_object() || header.value("axes", base::Json()) != axes_json(study.space)) {
    return "axes, values or defaults";
  }
  const base::Json mine = objective_json(study.objective);
  const base::Json theirs = header.value("objective", base::Json());
  if (!theirs.is_object() || theirs.value("maximize", base::Json()) != mine["maximize"] ||
      base::json_get<bool>(theirs, "pareto", false) != study.objective.pareto) {
    return "an objective";
  }
  if (theirs.value("subject_to", base::Json::array()) != mine["subject_to"]) {
    return "limits (subject_to)";
  }
  auto parsed = parse_space_file(base::json_get<std::string>(header, "space", ""),
                                 base::json_get<std::string>(header, "space_path", ""));
  const Study* then = std::get_if<Study>(&parsed);
  return then == nullptr || rules(then->space) == rules(study.space) ? "" : "constraints";
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
