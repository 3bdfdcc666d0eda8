#include "src/engine/request_fields.h"

#include <fmt/format.h>

namespace engine {

using base::Json;

const Json* RequestFields::find(std::string_view name) const {
  auto found = body_.find(name);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

void RequestFields::fail(std::string message) {
  if (!error) {
    error = invalid_request(std::move(message));
  }
}

void RequestFields::wrong_type(std::string_view name, std::string_view want, const Json& got) {
  fail(fmt::format("Field '{}': [json.exception.type_error.302] type must be {}, but is {}", name, want,
                   got.type_name()));
}

bool RequestFields::read_number(std::string_view name, double& out, double lo, double hi, bool hard) {
  const Json* value = next(name);
  if (!value) {
    return false;
  }
  if (!value->is_number()) {
    wrong_type(name, "number", *value);
    return false;
  }
  out = value->get<double>();
  if (hard && (out < lo || out > hi)) {
    fail(fmt::format("Field '{}': Value must be between {} <= value <= {}, but got {}", name, lo, hi, out));
    return false;
  }
  out = std::min(std::max(out, lo), hi);
  return true;
}

void RequestFields::boolean(std::string_view name, bool& out) {
  const Json* value = next(name);
  if (value && !value->is_boolean()) {
    wrong_type(name, "boolean", *value);
  } else if (value) {
    out = value->get<bool>();
  }
}

void RequestFields::string(std::string_view name, std::string& out) {
  const Json* value = next(name);
  if (value && !value->is_string()) {
    wrong_type(name, "string", *value);
  } else if (value && value->get_ref<const std::string&>().size() > kMaxStringBytes) {
    fail(fmt::format("Field '{}': at most {} bytes", name, kMaxStringBytes));
  } else if (value) {
    out = value->get<std::string>();
  }
}

void RequestFields::strings(std::string_view name, std::vector<std::string>& out) {
  const Json* value = next(name);
  if (!value) {
    return;
  }
  if (value->is_string()) {
    out = {value->get<std::string>()};
    return;
  }
  if (!value->is_array()) {
    return wrong_type(name, "array", *value);
  }
  out.clear();
  size_t bytes = 0;
  for (const Json& item : *value) {
    if (!item.is_string()) {
      return wrong_type(name, "string", item);
    }
    bytes += item.get_ref<const std::string&>().size();
    if (out.size() == kMaxStrings || bytes > kMaxStringBytes) {
      return fail(fmt::format("Field '{}': at most {} strings of {} bytes together", name, kMaxStrings,
                              kMaxStringBytes));
    }
    out.push_back(item.get<std::string>());
  }
}

}  // namespace engine
