#pragma once
// The `backend:` section of a space file.

#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {

// What is not there, or has an error, keeps its default; the errors are the reader's.
void read_backend(SpaceReader& reader, const YamlNode& node, BackendOptions& options);

}  // namespace study
