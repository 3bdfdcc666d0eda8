#pragma once
// The journal's first record: what a study's results depend on, and what resume needs to go on.

#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/study/backends.h"
#include "src/study/study.h"

namespace study {

// Every model a trial may load: the values of the axis `model`, else the study's one; none where it names none.
std::vector<std::string> model_paths(const Study& study);

// Path, size, modification time, a hash of the first MiB and one of 16 pieces of 64 KiB spread over the file (of a split
// model the first part); of a GGUF its name, architecture and number of tensors,
// of a split one the parts and their size together. Errors: missing, unreadable, damaged or cut off, a part missing;
// for the kinds that load GGUF files anything else. For openai and url a directory or a name that is no path at all
// ("org/model") is as good as a file: its identity is the path.
base::Result<base::Json> model_identity(const std::string& path, BackendKind kind);

// Reads host facts and the boot id. `models` and further binaries are written where they are axes.
base::Json study_header(const Study& study, const ServerProgram& program, const base::Json& model,
                        const std::vector<base::Json>& models = {});

// As the header has them.
base::Json axes_json(const search::Space& space);
base::Json objective_json(const Objective& objective);
// How it measures: {probe: {option: value}} of the probes that are on, as far as their options decide what a number
// means or how a trial may fail; `limits` of all trials, named as in the space file.
base::Json measurement_json(const Study& study);
// {provider, endpoint (null: the provider's own), model (null: the server's), max_tokens, usd_per_mtok_in, _out}
base::Json llm_json(const LlmSetup& llm);

// The study of a header, with the model and the search options of its first run. Errors: its space text was
// changed or no longer parses here, its prompt suite has changed.
base::Result<Study> study_of_header(const base::Json& header);

}  // namespace study
