#include "src/base/json.h"

namespace base {
namespace {

constexpr int kMaxDepth = 128;

}  // namespace

Result<Json> parse_json(std::string_view text, std::string where) {
  bool too_deep = false;
  auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) {
      too_deep = true;
    }
    return !too_deep;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), limit_depth);
    if (too_deep) {
      return error(std::move(where), "JSON nested deeper than 128 levels");
    }
    return value;
  } catch (const Json::exception& e) {
    return error(std::move(where), e.what());
  }
}

std::string dump_line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace base
