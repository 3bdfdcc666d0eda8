#pragma once
// GGUF files in memory for tests, valid ones and invalid ones.

#include <cstddef>
#include <span>
#include <string>

#include "src/gguf/builder.h"

namespace fixtures {

using GgufBuilder = gguf::Builder;

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace fixtures
