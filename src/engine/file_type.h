#pragma once
// What a GGUF's general.file_type is called. Pure.

#include <cstdint>
#include <optional>
#include <string>

namespace engine {

// The name llama-server shows (build b10515); "file type N" for another number, "unknown" for none.
std::string file_type_name(std::optional<int64_t> type);

}  // namespace engine
