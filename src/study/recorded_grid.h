#pragma once
// From the journal of a study to a grid that strategies are played against (`autoresearch replay`, `plan`, replay-bench).
// Any journal will do; one of `strategy: grid` has every point.

#include <string>

#include "search/replay.h"
#include "src/study/journal.h"
#include "src/study/study.h"

namespace study {

// Every launch of every configuration, repeats and anchors included, as the study judged it. Errors: a record that does
// not fit the space; nothing feasible in it, or fewer than two points: there is nothing to look for.
base::Result<search::RecordedGrid> recorded_grid(const Study& study, const JournalContent& journal,
                                                 const std::string& where);

struct LoadedGrid {
  std::string path;
  base::Json header;
  Study study;
  search::RecordedGrid grid;
};
// Reads the journal, too.
base::Result<LoadedGrid> load_grid(const std::string& path);

// Whether the study of that header has the same axes, values, defaults and objective: then strategies do there what they
// would do here. Limits may differ. Pure.
bool same_search(const Study& study, const base::Json& header);

}  // namespace study
