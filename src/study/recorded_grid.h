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
  bool unfinished = false;  // a study of `strategy: grid` that a resume would go on with
};
// Reads the journal, too.
base::Result<LoadedGrid> load_grid(const std::string& path);

// In what the search of the study in that header's space text is another than this one's: axes, values, defaults, objective, limits or
// constraints; "" = in nothing, strategies do there what they would do here. A header whose space cannot be read here any
// more is compared by what it tells of itself: load_grid() tells why it cannot.
std::string other_search(const Study& study, const base::Json& header);
// "the model a.gguf instead of b.gguf, an AMD EPYC instead of ...": what else it was recorded of; "" = nothing. By file
// names and facts of this host.
std::string recorded_elsewhere(const Study& study, const base::Json& header);

}  // namespace study
