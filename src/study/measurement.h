#pragma once
// The probes of one trial against a server that is ready: cheapest first, ended early when the rest can no longer
// matter.

#include <functional>
#include <optional>
#include <string_view>

#include "src/os/http_client.h"
#include "src/study/launcher.h"
#include "src/study/trial.h"

namespace study {

// Fills the record's probe results and metrics. nullopt: everything was measured (or cited). A Failure of kPruned
// or kQualityFail is the context's gate; every other is the server's.
std::optional<Failure> measure(const Study& study, const TrialRequest& request, Launched& server,
                               const TrialContext& context,
                               const std::function<void(std::string_view)>& progress, TrialRecord& record);

// Which failure a probe's Error stands for, once the candidate is known to be alive. Pure.
Status classify_probe_error(os::HttpFault fault, bool health_answers);

}  // namespace study
