#pragma once
// What an earlier study of the same model on the same machine measured, as knowledge of a new one. Pure.

#include <string>

#include "src/study/journal.h"
#include "src/study/study.h"

namespace study {

// `warm_start` of the new study's header (JOURNAL.md): one entry per configuration of this space that the earlier study
// launched and this one can use. What was measured is kept, its drift taken out; it is judged by the new study, so
// another objective is no hindrance. Errors: another model, host, server or way of measuring, each difference named
// with both values; nothing that this study can use, with why.
base::Result<base::Json> warm_start(const Study& study, const base::Json& header, const JournalContent& old,
                                    const std::string& where);

// "34 configurations known from study x-2026...; 3 trials left out: 2 are no points of this space, ..."
std::string warm_start_text(const base::Json& warm);

}  // namespace study
