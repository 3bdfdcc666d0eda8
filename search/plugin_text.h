#pragma once
// The plugin protocol's JSON: what does not depend on the state of a conversation.

#include <string>
#include <string_view>
#include <vector>

#include "search/plugin.h"

namespace search {

inline constexpr int kPluginSchemaVersion = 1;

// {"axes": [{name, values, default, ordered, active_when}], "constraints": [text]}
base::Json space_json(const Space& space);
base::Json refused_json(const std::vector<PluginExchange::Refused>& refused);
// `usage` of an answer or a record: numbers of 0 or more, all others are left out.
PluginUsage read_usage(const base::Json& record);
base::Json to_json(const PluginUsage& usage);
// For the journal and for people: one line of at most 400 bytes, control characters as blanks.
std::string clipped(std::string_view text);
// Without a secret, in case the other side repeats it; one under 6 bytes would blank out innocent words, and is left.
// Before anything is clipped: of a secret that is cut through, its beginning would stay.
void hide_secret(std::string& text, const std::string& secret);
// In every text and name of a JSON value; in a line of JSON, however it is escaped there.
void hide_secret(base::Json& value, const std::string& secret);
void hide_secret_in_line(std::string& line, const std::string& secret);
// Tokens that so many bytes of JSON come to, cautiously: for budgets, where nobody has counted.
double tokens_of(size_t bytes);
// The value itself, or, where it is long, the beginning of its text.
base::Json shortened(const base::Json& value);

}  // namespace search
