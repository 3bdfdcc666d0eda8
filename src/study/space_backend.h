#pragma once
// The `backend:` section of a space file.

#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {

// What is not there, or has an error, keeps its default; the errors are the reader's.
void read_backend(SpaceReader& reader, const YamlNode& node, BackendOptions& options);
// `service:`, the name of a systemd user unit.
void read_service(SpaceReader& reader, const YamlNode& node, std::string& service);

}  // namespace study
