#pragma once
// Servers we know less of: any command that serves /v1 (vllm, sglang, trtllm-serve), and one that is already
// running. No table of flags: axes go by their own flag: or env:, or by the server's /reconfigure. Pure.

#include <optional>
#include <string>
#include <vector>

#include "src/study/backends.h"

namespace study {

// backend.args with {port}, {host} and {model} replaced, in backend.env too; then the axes. Where no argument
// names {port}, "--host 127.0.0.1 --port N" is added, as vllm, sglang and trtllm-serve spell it.
base::Result<void> plan_openai(const Study& study, const ServerProgram& program, const search::Config& config,
                               const LaunchSite& site, LaunchPlan& plan);

// `text` with every {port}, {host} and {model} replaced; other braces stay.
std::string fill_placeholders(std::string_view text, int port, std::string_view model);

// What keeps an axis from reaching an openai or url server; nullopt: nothing does.
std::optional<base::Error> unsupported_by_foreign(const Study& study, const ServerProgram& program,
                                                  const search::Axis& axis);

// backend.ready_path, else /health of a server with llama-server's routes, else /v1/models.
std::string ready_path_of(const BackendOptions& options, bool native);
// What /v1/models may name for this configuration: the model as given, and the names that backend.args give it
// (--alias, --served-model-name).
std::vector<std::string> model_names(const Study& study, const search::Config& config);

}  // namespace study
