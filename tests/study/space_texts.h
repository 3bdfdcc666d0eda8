#pragma once
// Space files as texts: read, or refused.

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <variant>

#include "src/study/study.h"

namespace space_texts {

inline constexpr const char* kMinimal = R"(study: s
model: m.gguf
axes:
  ctx_size: {values: [2048, 4096], default: 2048}
objective: {maximize: decode_tps}
)";

inline study::Study good(const std::string& text, const std::string& where = "s.yaml") {
  auto parsed = study::parse_space_file(text, where);
  auto* errors = std::get_if<study::SpaceFileErrors>(&parsed);
  REQUIRE_MESSAGE(errors == nullptr, (errors != nullptr ? errors->to_string() : ""));
  return std::get<study::Study>(parsed);
}

inline std::string errors_of(const std::string& text) {
  auto parsed = study::parse_space_file(text, "s.yaml");
  auto* errors = std::get_if<study::SpaceFileErrors>(&parsed);
  CAPTURE(text);
  REQUIRE(errors != nullptr);
  REQUIRE_FALSE(errors->errors.empty());
  return errors->to_string();
}

inline bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

inline std::string source(const std::string& path) {
  return std::string(AR_SOURCE_DIR) + "/" + path;
}

}  // namespace space_texts
