#include "src/base/json.h"

#include <vector>

namespace base {
namespace {

constexpr int kMaxDepth = 128;
constexpr size_t kMaxKeys =
    4096;  // of one object; quadratic time: these take 40 ms, a megabyte of them minutes

}  // namespace

Result<Json> parse_json(std::string_view text, std::string where) {
  bool too_deep = false, too_wide = false;
  std::vector<size_t> keys;  // of each object that is open
  auto limit = [&](int depth, Json::parse_event_t event, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    if (event == Json::parse_event_t::object_start) {
      keys.push_back(0);
    } else if (event == Json::parse_event_t::key && !keys.empty()) {
      too_wide = too_wide || ++keys.back() > kMaxKeys;
    } else if (event == Json::parse_event_t::object_end && !keys.empty()) {
      keys.pop_back();
    }
    return !too_deep && !too_wide;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), limit);
    if (too_deep) {
      return error(std::move(where), "JSON nested deeper than 128 levels");
    }
    if (too_wide) {
      return error(std::move(where), "a JSON object with more than 4096 keys", "use an array");
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
