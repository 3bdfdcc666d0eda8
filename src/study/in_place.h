#pragma once
// Which axes a running server changes without a fresh process, and what to ask it for. Pure.

#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/study/backends.h"
#include "src/study/record.h"
#include "src/study/trial.h"

namespace study {

// The axes of the study that this program will change in place, as far as it says so before it runs: the bundled
// server with its /reconfigure switch in --help, and one that was running before us. Empty where that is not known yet, and with `reuse: never`.
std::vector<std::string> in_place_axes(const Study& study, const ServerProgram& program);
// The same from a study's header, as it was when the study began: a resumed search must plan as before.
std::vector<std::string> recorded_in_place_axes(const base::Json& header);

// What a running server offers to change: the list in its block of /props.
std::vector<std::string> offered_axes(const base::Json& effective);

// The body of POST /reconfigure that leads from one configuration to the other: the axes that differ, and all that
// are offered when none does (the server then opens the same anew, as a repeated launch would). `from` absent: not
// known, so every offered axis is named. nullopt: an axis that differs is not offered, or has a flag of its own
// that the server does not know as an axis.
std::optional<base::Json> reconfigure_body(const Study& study, const search::Config* from,
                                           const search::Config& to, const std::vector<std::string>& offered);

// Takes quality, perplexity and needle from the trial that measured this record's numerics_key, and says so in
// cited_trial_id. False, nothing taken: there is none, it lacks a probe that the study wants, or its needles
// depended on more than the numbers (a prompt that did not fit or was not answered in time, here or there).
// `n_ctx`: of this trial, in tokens; 0 = not known.
bool cite(const ProbeOptions& probes, const TrialContext& context, int64_t n_ctx, TrialRecord& record);

}  // namespace study
