#include "src/study/space_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "src/base/suggest.h"
#include "src/base/units.h"

namespace study {
namespace {

std::string kind_name(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return fmt::format("'{}'", node.text);
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
  }
  return "";
}

// "16k" is what people write for 16384.
std::string whole_hint(std::string_view text, int64_t least, int64_t most) {
  if (text.size() > 1 && (text.back() == 'k' || text.back() == 'K')) {
    auto thousands = parse_whole(text.substr(0, text.size() - 1));
    if (thousands && *thousands > 0 && *thousands < 1'000'000) {
      return fmt::format("write {}", *thousands * 1024);
    }
  }
  return fmt::format("write a whole number from {} to {}", least, most);
}

}  // namespace

std::optional<int64_t> parse_whole(std::string_view text) {
  int64_t value = 0;
  auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool good = problem == std::errc() && end == text.data() + text.size();
  return good ? std::optional<int64_t>(value) : std::nullopt;
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool good = problem == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  return good ? std::optional<double>(value) : std::nullopt;
}

bool is_variable_name(std::string_view name) {
  for (size_t i = 0; i < name.size(); ++i) {
    char c = name[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && (i == 0 || c < '0' || c > '9')) {
      return false;
    }
  }
  return !name.empty();
}

base::Result<std::string> expand_variables(
    std::string_view text, const std::function<std::optional<std::string>(const std::string&)>& lookup) {
  std::string result;
  while (!text.empty()) {
    size_t dollar = text.find('$');
    result += text.substr(0, dollar);
    if (dollar == std::string_view::npos) {
      break;
    }
    text.remove_prefix(dollar + 1);
    if (text.starts_with('$')) {
      result += '$';
      text.remove_prefix(1);
      continue;
    }
    if (!text.starts_with('{')) {
      result += '$';
      continue;
    }
    size_t close = text.find('}');
    if (close == std::string_view::npos) {
      return base::error("", "${ is not closed", "write ${NAME} or ${NAME:-default}");
    }
    std::string_view inside = text.substr(1, close - 1);
    text.remove_prefix(close + 1);
    size_t colon = inside.find(":-");
    std::string name(inside.substr(0, colon));
    if (!is_variable_name(name)) {
      return base::error("", fmt::format("'{}' is not the name of a variable", name),
                         "write ${NAME} or ${NAME:-default}");
    }
    auto value = lookup(name);
    if (colon != std::string_view::npos) {
      result += value && !value->empty() ? *value : std::string(inside.substr(colon + 2));
    } else if (value) {
      result += *value;
    } else {
      return base::error("", fmt::format("the environment variable {} is not set", name),
                         fmt::format("set it, or write ${{{}:-default}}", name));
    }
  }
  return result;
}

void SpaceReader::fail(const YamlNode& at, std::string what, std::string next, size_t offset) {
  fail(base::error(fmt::format("{}:{}:{}", where_, at.line, at.column + static_cast<int>(offset)),
                   std::move(what), std::move(next)));
}

void SpaceReader::read_map(const YamlNode& node, std::string_view name, const std::vector<Field>& fields) {
  std::vector<std::string> known;
  for (const Field& field : fields) {
    known.emplace_back(field.first);
  }
  if (node.kind != YamlNode::Kind::kMap) {
    fail(node, fmt::format("{} must be a map, not {}", name, kind_name(node)),
         fmt::format("write keys below it, such as {}:", known.front()));
    return;
  }
  for (const auto& [key, value] : node.entries) {
    bool found = false;
    for (const auto& [field, handler] : fields) {
      if (field == key.text) {
        handler(value);
        found = true;
      }
    }
    if (!found) {
      fail(key, fmt::format("unknown key '{}' in {}", key.text, name), base::did_you_mean(key.text, known));
    }
  }
}

std::optional<std::string> SpaceReader::text(const YamlNode& node, std::string_view name) {
  if (node.kind != YamlNode::Kind::kScalar || node.text.empty()) {
    fail(node, fmt::format("{} must be a text, not {}", name, kind_name(node)),
         fmt::format("write {}: TEXT", name));
    return std::nullopt;
  }
  return node.text;
}

std::optional<int64_t> SpaceReader::whole(const YamlNode& node, std::string_view name, int64_t least,
                                          int64_t most) {
  auto value = node.kind == YamlNode::Kind::kScalar ? parse_whole(node.text) : std::nullopt;
  if (!value) {
    fail(node, fmt::format("{} must be a whole number, not {}", name, kind_name(node)),
         whole_hint(node.text, least, most));
  } else if (*value < least || *value > most) {
    fail(node, fmt::format("{} is out of range: {}", name, *value), whole_hint("", least, most));
    return std::nullopt;
  }
  return value;
}

std::optional<double> SpaceReader::number(const YamlNode& node, std::string_view name, double least,
                                          double most) {
  auto value = node.kind == YamlNode::Kind::kScalar ? parse_number(node.text) : std::nullopt;
  if (!value || *value < least || *value > most) {
    fail(node, fmt::format("{} must be a number from {} to {}, not {}", name, least, most, kind_name(node)),
         "write it with a decimal point where needed, such as 0.05");
    return std::nullopt;
  }
  return value;
}

std::optional<double> SpaceReader::duration_s(const YamlNode& node, std::string_view name) {
  auto value = base::parse_duration_s(node.text);
  if (node.kind != YamlNode::Kind::kScalar || !value) {
    fail(node, fmt::format("{} must be a duration, not {}", name, kind_name(node)),
         "write a number with ms, s, m or h, such as 90s or 1h30m");
    return std::nullopt;
  }
  return *value;
}

void SpaceReader::timeout_s(const YamlNode& node, double& into, std::string_view name) {
  double seconds = duration_s(node, name).value_or(into);
  if (seconds <= 0) {
    fail(node, fmt::format("{} must be more than 0", name), "write a duration such as 20m");
    return;
  }
  into = seconds;
}

std::string SpaceReader::resolve(const std::string& path) const {
  std::filesystem::path beside = std::filesystem::path(where_).parent_path() / path;
  std::error_code ignored;
  if (!std::filesystem::path(path).is_absolute() && std::filesystem::exists(beside, ignored)) {
    return beside.lexically_normal().string();
  }
  return path;
}

std::optional<std::string> SpaceReader::expanded(const YamlNode& node, std::string_view name) {
  auto raw = text(node, name);
  if (!raw) {
    return std::nullopt;
  }
  auto result = expand_variables(*raw, [](const std::string& variable) -> std::optional<std::string> {
    const char* value = std::getenv(variable.c_str());
    return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
  });
  if (!result) {
    fail(node, fmt::format("{}: {}", name, result.failure().what), result.failure().next);
    return std::nullopt;
  }
  return *result;
}

std::vector<const YamlNode*> SpaceReader::list(const YamlNode& node, std::string_view name) {
  std::vector<const YamlNode*> items;
  if (node.kind == YamlNode::Kind::kScalar) {
    items.push_back(&node);
  } else if (node.kind == YamlNode::Kind::kList && !node.items.empty()) {
    for (const YamlNode& item : node.items) {
      items.push_back(&item);
    }
  } else {
    fail(node,
         fmt::format("{} must be a list with something in it, not {}", name,
                     node.kind == YamlNode::Kind::kList ? "an empty one" : kind_name(node)),
         "write [a, b, c]");
  }
  return items;
}

}  // namespace study
