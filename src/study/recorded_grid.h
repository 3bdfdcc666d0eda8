#pragma once
// From the journal of a study to a grid that `autoresearch replay` plays strategies against. Any journal will do; one
// of `strategy: grid` has every point. Pure.

#include "search/replay.h"
#include "src/study/journal.h"
#include "src/study/study.h"

namespace study {

// Every launch of every configuration, repeats and anchors included, as the study judged it. Errors: a record that does
// not fit the space; nothing feasible in it, or fewer than two points: there is nothing to look for.
base::Result<search::RecordedGrid> recorded_grid(const Study& study, const JournalContent& journal,
                                                 const std::string& where);

}  // namespace study
