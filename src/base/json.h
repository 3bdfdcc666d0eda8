#pragma once
// The one JSON type of the project: nlohmann's, keeping the order of keys, since answers and journal records
// are read by people and compared with llama-server's.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "src/base/error.h"

// Instantiated once, in json.cc: two files that lean on it compiled 11 and 17% faster, under sanitizers.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace base {

using Json = nlohmann::ordered_json;

// Parses one JSON text, in time in proportion to its length; of equal keys of an object the last counts. An Error's
// where is `where`; its what names the byte offset. Refuses nesting over 128 levels (recursion is the attacker's),
// objects of over 4096 keys (looking one up is linear) and more than 1100000 values in all, each up to 100 bytes of
// memory beside its text; `refused`, where given, tells these from what is no JSON.
Result<Json> parse_json(std::string_view text, std::string where, bool* refused = nullptr);

// One line without a newline; bytes that are not UTF-8 become U+FFFD instead of throwing.
std::string dump_line(const Json& value);

// value[key] as T, or `fallback` when value is no object, the key is absent or null, or the type differs.
template <class T>
T json_get(const Json& value, std::string_view key, T fallback) {
  if (!value.is_object()) {
    return fallback;
  }
  auto found = value.find(key);
  if (found == value.end() || found->is_null()) {
    return fallback;
  }
  if constexpr (std::is_same_v<T, bool>) {
    return found->is_boolean() ? found->template get<bool>() : fallback;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return found->is_number() ? found->template get<T>() : fallback;
  } else {
    return found->is_string() ? found->template get<T>() : fallback;
  }
}

}  // namespace base
