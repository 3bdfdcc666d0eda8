#pragma once
// Where the reference models, vocabularies and goldens are, for tests that compare with them and skip without
// them.

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace tests {

// Path of a reference file, or nullopt after saying that the test is skipped.
inline std::optional<std::string> reference(const std::string& name) {
  const char* set = std::getenv("AUTORESEARCH_REFERENCE");
  std::string path =
      (set != nullptr ? std::string(set) : std::string(AR_SOURCE_DIR "/../shared/reference")) + "/" + name;
  if (std::filesystem::exists(path)) {
    return path;
  }
  MESSAGE("skipped: " << path << " is missing (set AUTORESEARCH_REFERENCE)");
  return std::nullopt;
}

}  // namespace tests
