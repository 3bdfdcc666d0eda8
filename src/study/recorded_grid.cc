#include "src/study/recorded_grid.h"

#include <fmt/format.h>

#include "src/study/header.h"
#include "src/study/record.h"
#include "src/study/session.h"

namespace study {

base::Result<search::RecordedGrid> recorded_grid(const Study& study, const JournalContent& journal,
                                                 const std::string& where) {
  std::vector<bool> noisy;
  for (const search::Expression& entry : study.objective.maximize) {
    noisy.push_back(depends_on_speed(entry));
  }
  search::RecordedGrid grid(study.space, noisy, study.objective.pareto);
  size_t width = 0;  // of every objective: from a journal that was changed by hand they may differ
  for (const base::Json* end : journal.of_type("trial_end")) {
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
    outcome.noise = 0;  // repeats are pooled evenly
    grid.add(*config, outcome);
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

bool same_search(const Study& study, const base::Json& header) {
  if (!header.is_object() || header.value("axes", base::Json()) != axes_json(study.space)) {
    return false;
  }
  const base::Json objective = objective_json(study.objective);
  const base::Json theirs = header.value("objective", base::Json());
  return theirs.is_object() && theirs.value("maximize", base::Json()) == objective["maximize"] &&
         theirs.value("pareto", false) == objective["pareto"];
}

}  // namespace study
