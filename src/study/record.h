#pragma once
// One trial as data, and its two journal records. Pure. Field names: JOURNAL.md.

#include <optional>
#include <string>
#include <vector>

#include "search/strategy.h"
#include "src/base/json.h"
#include "src/os/child.h"
#include "src/study/objective.h"
#include "src/study/status.h"

namespace study {

struct TrialRequest {
  int trial_id = 0, attempt = 1;
  int parent_id = 0;  // confirm: the trial whose configuration is being confirmed; 0 = none
  search::Proposal proposal;
  std::string proposer;     // the strategy's name
  std::string params_hash;  // of the canonical configuration
  bool cold = false;        // must be a fresh process, even where a running one could be changed
  int confirm_planned = 0;  // confirm: pairs or blocks (in_place), as fixed before the first; 0 = none
  bool confirm_in_place = false;
  bool speed_only = false;  // anchors, finals, confirmation: what depends on the configuration alone is known
};

struct TrialRecord {
  Status status = Status::kOk;
  std::string reason;                 // empty for ok
  std::optional<os::ChildExit> exit;  // when the candidate ended by itself, or was killed
  std::string log_path, log_tail;     // the tail for failures only
  std::vector<std::string> argv;      // as launched, secrets redacted
  std::vector<std::string> env;       // "NAME=VALUE" that the space asks for, secrets redacted
  base::Json effective;               // what the server says it runs with; null when it never did
  base::Json speed, speed_half_context, quality, needle, curve, perplexity;  // null when not measured
  base::Json memory, hw;
  std::optional<double> t_load_s, t_warmup_s, t_measure_s;  // absent: that stage was not reached
  double t_total_s = 0;
  std::optional<double> t_reconfigure_s;  // a running server was changed in place; t_load_s is absent then
  bool cold = true;                       // a fresh process served this trial
  std::string numerics_key;               // as the server gives it; "" = it gives none
  int cited_trial_id = 0;                 // quality and needle are that trial's; 0 = measured here
  // Why a server that is not ours to launch serves no trial any more; "" = it does. The run ends, and the trial runs
  // again on resume. `lost_in_trial`: it still served when the trial began, so its configuration may be the cause.
  std::string server_lost;
  bool lost_in_trial = false;
  bool censored = false;  // ended early: what was measured says less than a whole trial
  double drift = 1;       // speeds were divided by this before they were judged; filled by the loop
  double noise = 0;       // Outcome::noise, filled by the loop
  TrialMetrics metrics;  // of a trial that is ok; of one ended early (pruned, quality_fail) what was measured
  Judgement judgement;   // likewise; filled by the loop
};

std::string utc_now();  // "2026-01-31T23:00:00Z"

base::Json trial_start(const std::string& study_id, const search::Space& space, const TrialRequest& request,
                       const std::vector<std::string>& argv, const std::string& boot_id);
base::Json trial_end(const std::string& study_id, const search::Space& space, const TrialRequest& request,
                     const TrialRecord& record);
// The end of a trial that the machine did not survive, from its start.
base::Json host_crash_end(const base::Json& start);

// Ended early by the loop's own judgement: it ran, and what it measured stays.
bool ended_early(Status status);
// Back from a trial_end. nullopt unless it is ok or was ended early, and its parameters fit the space.
std::optional<TrialMetrics> metrics_of(const search::Space& space, const base::Json& end);
// {name: number}, what is not finite left out.
base::Json metrics_json(const TrialMetrics& metrics);
Judgement judgement_of(const base::Json& end);
// How a trial_end contradicts itself: an objective that its metrics do not come to, metrics that its probes did not
// measure. "" = it does not. A number changed by hand shows; a whole trial made up does not.
std::string contradiction(const Study& study, const base::Json& end);
// What the strategy was told, or would have been.
search::Outcome outcome_of_end(const Study& study, const base::Json& end);

base::Json to_json(const os::MemoryTrace& trace, uint64_t available_after);

}  // namespace study
