#pragma once
// The journal's first record: what a study's results depend on, and what resume needs to go on.

#include <string>

#include "src/base/json.h"
#include "src/study/backends.h"
#include "src/study/study.h"

namespace study {

// Path, size, modification time, a hash of the first MiB; name and architecture where the file is a GGUF we
// can read. Errors: missing, a directory, unreadable, a GGUF that is cut off or damaged.
base::Result<base::Json> model_identity(const std::string& path);

// Reads host facts and the boot id.
base::Json study_header(const Study& study, const ServerProgram& program, const base::Json& model);

// The study of a header, with the model and the search options of its first run. Errors: its space text was
// changed or no longer parses here, its prompt suite has changed.
base::Result<Study> study_of_header(const base::Json& header);

}  // namespace study
