#include "search/space.h"

#include <fmt/format.h>

namespace search {

using base::error;
using base::Json;
using base::Result;

namespace {

Expression::Lookup lookup_in(const Space& space, const Config& config) {
  return [&space, &config](std::string_view name) -> std::optional<Value> {
    size_t axis = space.index_of(name);
    return axis < config.size() ? std::optional<Value>(config[axis]) : std::nullopt;
  };
}

bool holds(const Expression& expression, const Expression::Lookup& lookup) {
  auto value = expression.evaluate(lookup);
  const bool* flag = value ? std::get_if<bool>(&*value) : nullptr;
  return flag != nullptr && *flag;
}

Json value_json(const Value& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

// nullopt for null, arrays and objects.
std::optional<Value> value_from(const Json& json) {
  if (json.is_boolean()) {
    return Value(json.get<bool>());
  }
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) {
    return Value(json.get<double>());
  }
  if (json.is_number_integer()) {
    return Value(json.get<int64_t>());
  }
  if (json.is_number()) {
    return Value(json.get<double>());
  }
  if (json.is_string()) {
    return Value(json.get<std::string>());
  }
  return std::nullopt;
}

std::string list_values(const Axis& axis) {
  std::string text;
  for (const Value& value : axis.values) {
    text += (text.empty() ? "" : ", ") + to_string(value);
  }
  return text;
}

}  // namespace

size_t Axis::index_of(const Value& value) const {
  size_t index = 0;
  while (index < values.size() && !equal(values[index], value)) {
    ++index;
  }
  return index;
}

Config Space::default_config() const {
  Config config;
  config.reserve(axes.size());
  for (const Axis& axis : axes) {
    AR_CHECK(axis.default_index < axis.values.size(), "an axis without its default value");
    config.push_back(axis.values[axis.default_index]);
  }
  return canonical(config);
}

size_t Space::index_of(std::string_view name) const {
  size_t index = 0;
  while (index < axes.size() && axes[index].name != name) {
    ++index;
  }
  return index;
}

const Axis* Space::find(std::string_view name) const {
  size_t index = index_of(name);
  return index < axes.size() ? &axes[index] : nullptr;
}

std::string Space::violated(const Config& config) const {
  AR_CHECK(config.size() == axes.size(), "a configuration of another space");
  for (const Expression& constraint : constraints) {
    if (!holds(constraint, lookup_in(*this, config))) {
      return constraint.text();
    }
  }
  return "";
}

Config Space::canonical(const Config& config) const {
  AR_CHECK(config.size() == axes.size(), "a configuration of another space");
  Config result = config;
  // An axis that becomes inactive may make another inactive: repeat until nothing changes. Conditions that
  // chase each other in a circle end after as many rounds as there are axes.
  bool changed = true;
  for (size_t round = 0; changed && round <= axes.size(); ++round) {
    changed = false;
    for (size_t i = 0; i < axes.size(); ++i) {
      const Value& usual = axes[i].values[axes[i].default_index];
      if (axes[i].active_when && !equal(result[i], usual) &&
          !holds(*axes[i].active_when, lookup_in(*this, result))) {
        result[i] = usual;
        changed = true;
      }
    }
  }
  return result;
}

double Space::grid_size() const {
  double size = 1;
  for (const Axis& axis : axes) {
    size *= static_cast<double>(axis.values.size());
  }
  return size;
}

Json to_json(const Space& space, const Config& config) {
  AR_CHECK(config.size() == space.axes.size(), "a configuration of another space");
  Json params = Json::object();
  for (size_t i = 0; i < config.size(); ++i) {
    params[space.axes[i].name] = value_json(config[i]);
  }
  return params;
}

Result<Config> from_json(const Space& space, const Json& params) {
  if (!params.is_object()) {
    return error("params", "is not a JSON object", "give one value per axis: {\"ctx_size\": 16384, ...}");
  }
  for (const auto& [name, value] : params.items()) {
    if (space.find(name) == nullptr) {
      return error("params." + name, "the space has no such axis",
                   "remove it, or add the axis to the space file");
    }
  }
  Config config;
  for (const Axis& axis : space.axes) {
    auto found = params.find(axis.name);
    if (found == params.end()) {
      return error("params." + axis.name, "is missing", "give every axis a value");
    }
    auto value = value_from(*found);
    size_t index = value ? axis.index_of(*value) : axis.values.size();
    if (index == axis.values.size()) {
      return error("params." + axis.name, fmt::format("{} is not one of its values", base::dump_line(*found)),
                   "use one of " + list_values(axis));
    }
    config.push_back(axis.values[index]);
  }
  return config;
}

std::string key_of(const Config& config) {
  std::string key;
  for (const Value& value : config) {
    std::string text = to_string(value);
    // The length keeps ("a", "bc") and ("ab", "c") apart; numbers of both kinds read alike and are equal.
    key += fmt::format("{}{}:{}", std::holds_alternative<std::string>(value) ? "t" : "v", text.size(), text);
  }
  return key;
}

std::string describe(const Space& space, const Config& config, const Config& base) {
  AR_CHECK(config.size() == space.axes.size() && base.size() == config.size(),
           "configurations of two spaces");
  std::string text;
  for (size_t i = 0; i < config.size(); ++i) {
    if (!equal(config[i], base[i])) {
      text += fmt::format("{}{}={}", text.empty() ? "" : " ", space.axes[i].name, to_string(config[i]));
    }
  }
  return text.empty() ? "default" : text;
}

}  // namespace search
