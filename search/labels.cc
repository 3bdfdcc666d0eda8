#include "search/labels.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <variant>

namespace search {
namespace {

std::string last_part(std::string path) {
  while (!path.empty() && path.back() == '/') {
    path.pop_back();
  }
  std::string name = path.substr(path.rfind('/') + 1);
  return name.empty() ? "path" : name;
}

}  // namespace

Labels::Labels(const Space& space) {
  std::set<std::string> taken, paths;
  for (const Axis& axis : space.axes) {
    for (const Value& value : axis.values) {
      if (const auto* text = std::get_if<std::string>(&value)) {
        (text->find('/') != std::string::npos ? paths : taken).insert(*text);
      }
    }
  }
  for (const std::string& path : paths) {
    const std::string name = last_part(path);
    std::string label = name;
    for (int n = 2; !taken.insert(label).second; ++n) {
      label = fmt::format("{} ({})", name, n);
    }
    labels_.emplace_back(path, label);
  }
  // One path may be the beginning of another.
  std::stable_sort(labels_.begin(), labels_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
}

void Labels::hide(base::Json& told) const {
  if (labels_.empty()) {
    return;
  }
  if (told.is_structured()) {
    for (base::Json& part : told) {
      hide(part);
    }
  } else if (told.is_string()) {
    auto& text = told.get_ref<std::string&>();
    for (const auto& [value, label] : labels_) {
      for (size_t at = 0; (at = text.find(value, at)) != std::string::npos; at += label.size()) {
        text.replace(at, value.size(), label);
      }
    }
  }
}

base::Json Labels::values(base::Json params) const {
  if (!params.is_object()) {
    return params;
  }
  for (base::Json& proposed : params) {
    for (const auto& [value, label] : labels_) {
      if (proposed.is_string() && proposed.get_ref<const std::string&>() == label) {
        proposed = value;
        break;
      }
    }
  }
  return params;
}

}  // namespace search
