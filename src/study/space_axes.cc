#include "src/study/space_axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/base/suggest.h"
#include "src/study/axis_kinds.h"
#include "src/study/objective.h"

namespace study {

using search::Axis;
using search::Value;

namespace {

constexpr size_t kMaxAxes = 64, kMaxValues = 256;

struct AxisNodes {  // what stands below one axis
  const YamlNode *key = nullptr, *body = nullptr;
  const YamlNode *values = nullptr, *range = nullptr, *scale = nullptr, *steps = nullptr, *usual = nullptr;
  const YamlNode *flag = nullptr, *env = nullptr, *active_when = nullptr;
};

class AxisReader {
 public:
  AxisReader(SpaceReader& reader, const YamlNode& key, const YamlNode& body, bool any_cache_type)
      : reader_(reader), name_(key.text), errors_before_(reader.errors().size()) {
    nodes_.key = &key;
    nodes_.body = &body;
    if (const AxisKind* known = find_axis_kind(name_)) {
      kind_ = *known;
      known_ = true;
      if (any_cache_type && name_.starts_with("cache_type_")) {
        kind_.kind = ValueKind::kAny;
      }
    }
    kind_.name = name_;
  }

  // nullopt after an error.
  std::optional<Axis> read() {
    collect();
    if (failed()) {
      return std::nullopt;
    }
    check_name();
    axis_.name = name_;
    if (nodes_.values != nullptr && nodes_.range != nullptr) {
      reader_.fail(*nodes_.range, fmt::format("{} has values and a range", name_), "keep one of the two");
    } else if (nodes_.values != nullptr) {
      read_values();
    } else if (nodes_.range != nullptr) {
      read_range();
    } else {
      reader_.fail(*nodes_.key, fmt::format("{} has no values", name_),
                   "write values: [a, b, c], or range: [low, high]");
    }
    return failed() ? std::nullopt : std::optional<Axis>(std::move(axis_));
  }

  const YamlNode* condition() const { return nodes_.active_when; }

  std::optional<AxisBinding> binding() {
    AxisBinding binding;
    if (nodes_.flag != nullptr) {
      binding.flag = reader_.text(*nodes_.flag, name_ + ".flag").value_or("");
    }
    if (nodes_.env != nullptr) {
      binding.env = reader_.text(*nodes_.env, name_ + ".env").value_or("");
    }
    return binding.flag.empty() && binding.env.empty() ? std::nullopt : std::optional<AxisBinding>(binding);
  }

 private:
  bool failed() const { return reader_.errors().size() > errors_before_; }

  void collect() {
    auto into = [](const YamlNode*& slot) { return [&slot](const YamlNode& value) { slot = &value; }; };
    reader_.read_map(*nodes_.body, fmt::format("axis {}", name_),
                     {{"values", into(nodes_.values)},
                      {"range", into(nodes_.range)},
                      {"scale", into(nodes_.scale)},
                      {"steps", into(nodes_.steps)},
                      {"default", into(nodes_.usual)},
                      {"flag", into(nodes_.flag)},
                      {"env", into(nodes_.env)},
                      {"active_when", into(nodes_.active_when)}});
  }

  void check_name() {
    const YamlNode& key = *nodes_.key;
    if (!is_variable_name(name_)) {
      reader_.fail(key, fmt::format("'{}' cannot be the name of an axis", name_),
                   "use letters, digits and _ so that constraints can name it");
    } else if (!known_ && nodes_.flag == nullptr && nodes_.env == nullptr) {
      auto names = known_axis_names();
      std::string near = base::closest(name_, names);
      reader_.fail(key, fmt::format("no server setting is known for the axis '{}'", name_),
                   near.empty()
                       ? "add flag: --ITS-FLAG or env: ITS_VARIABLE"
                       : fmt::format("did you mean {}? For a setting of your own add flag: or env:", near));
    } else if (!known_ && find_metric(name_) != nullptr) {
      reader_.fail(key, fmt::format("'{}' is the name of a metric", name_), "call the axis something else");
    }
    if (nodes_.flag != nullptr && !nodes_.flag->text.starts_with("-")) {
      reader_.fail(*nodes_.flag,
                   fmt::format("{}.flag must begin with '-', not '{}'", name_, nodes_.flag->text),
                   "write it as on the command line: --some-flag");
    }
    if (nodes_.env != nullptr && !is_variable_name(nodes_.env->text)) {
      reader_.fail(*nodes_.env,
                   fmt::format("{}.env is not the name of a variable: '{}'", name_, nodes_.env->text),
                   "use letters, digits and _");
    }
    if (nodes_.flag != nullptr && nodes_.env != nullptr) {
      reader_.fail(*nodes_.env, fmt::format("{} has a flag and an environment variable", name_),
                   "keep one of the two");
    }
  }

  std::optional<Value> value_of(const YamlNode& node) {
    if (node.kind != YamlNode::Kind::kScalar || node.text.empty()) {
      reader_.fail(node, fmt::format("a value of {} must be a number or a name", name_), "write it plainly");
      return std::nullopt;
    }
    if (kind_.kind == ValueKind::kText) {
      auto text = reader_.expanded(node, name_);
      return text ? std::optional<Value>(name_ == "model" ? reader_.resolve(*text) : *text) : std::nullopt;
    }
    auto value = parse_axis_value(kind_, node.text);
    if (!value) {
      reader_.fail(node, value.failure().what, value.failure().next);
      return std::nullopt;
    }
    return *value;
  }

  void read_values() {
    if (nodes_.values->kind != YamlNode::Kind::kList || nodes_.values->items.empty()) {
      reader_.fail(*nodes_.values, fmt::format("values of {} must be a list with something in it", name_),
                   "write values: [a, b, c]");
      return;
    }
    if (nodes_.values->items.size() > kMaxValues) {
      reader_.fail(*nodes_.values, fmt::format("{} has more than {} values", name_, kMaxValues),
                   "use range: with scale: and steps:");
      return;
    }
    for (const YamlNode& item : nodes_.values->items) {
      auto value = value_of(item);
      if (value && axis_.index_of(*value) < axis_.values.size()) {
        reader_.fail(item, fmt::format("{} lists {} twice", name_, search::to_string(*value)), "remove one");
      } else if (value) {
        axis_.values.push_back(*value);
      }
    }
    if (nodes_.scale != nullptr) {
      reader_.fail(*nodes_.scale, fmt::format("{} has values, which take no scale", name_),
                   "remove scale:, or write range: instead of values:");
    }
    auto is_number = [](const Value& value) {
      return std::holds_alternative<int64_t>(value) || std::holds_alternative<double>(value);
    };
    bool all_numbers = std::all_of(axis_.values.begin(), axis_.values.end(), is_number);
    if (all_numbers) {
      auto real = [](const Value& value) {
        const auto* whole = std::get_if<int64_t>(&value);
        return whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value);
      };
      std::stable_sort(axis_.values.begin(), axis_.values.end(),
                       [&](const Value& a, const Value& b) { return real(a) < real(b); });
    }
    // Layers run from none to all: the word is the end of the scale.
    axis_.ordered = all_numbers || kind_.kind == ValueKind::kWholeOrWord;
    if (nodes_.steps != nullptr) {
      auto steps = reader_.whole(*nodes_.steps, name_ + ".steps", 1, kMaxValues);
      axis_.sweep_values = static_cast<size_t>(steps.value_or(3));
    }
    if (!failed()) {
      find_default();
    }
  }

  void find_default() {
    if (nodes_.usual == nullptr) {
      reader_.fail(*nodes_.key, fmt::format("{} has no default", name_),
                   "add default: VALUE, the value you would use without a search");
      return;
    }
    auto usual = value_of(*nodes_.usual);
    if (!usual) {
      return;
    }
    axis_.default_index = axis_.index_of(*usual);
    if (axis_.default_index == axis_.values.size()) {
      reader_.fail(
          *nodes_.usual,
          fmt::format("the default {} is not among the values of {}", search::to_string(*usual), name_),
          fmt::format("add it to the values, or use {}", nearest(*usual)));
    }
  }

  std::string nearest(const Value& usual) const {
    std::vector<std::string> texts;
    std::string best = search::to_string(axis_.values.front());
    double best_distance = INFINITY;
    for (const Value& value : axis_.values) {
      texts.push_back(search::to_string(value));
      auto a = parse_number(texts.back());
      auto b = parse_number(search::to_string(usual));
      if (a && b && std::fabs(*a - *b) < best_distance) {
        best = texts.back();
        best_distance = std::fabs(*a - *b);
      }
    }
    std::string near = base::closest(search::to_string(usual), texts);
    return std::isfinite(best_distance) || near.empty() ? best : near;
  }

  void read_range() {
    const YamlNode& range = *nodes_.range;
    if (kind_.kind == ValueKind::kWord || kind_.kind == ValueKind::kSwitch ||
        kind_.kind == ValueKind::kBool || kind_.kind == ValueKind::kText) {
      reader_.fail(range, fmt::format("{} takes names, not a range", name_), "write values: [a, b, c]");
      return;
    }
    if (range.kind != YamlNode::Kind::kList || range.items.size() != 2) {
      reader_.fail(range, fmt::format("range of {} must be two numbers", name_), "write range: [low, high]");
      return;
    }
    auto low = bound(range.items[0]);
    auto high = bound(range.items[1]);
    if (!low || !high) {
      return;
    }
    if (*low >= *high) {
      reader_.fail(range, fmt::format("range of {} must go from low to high", name_),
                   "write range: [low, high]");
    }
    std::string scale = nodes_.scale != nullptr ? nodes_.scale->text : "linear";
    if (scale != "log" && scale != "linear") {
      const std::vector<std::string> known = {"linear", "log"};
      reader_.fail(*nodes_.scale, fmt::format("unknown scale '{}'", scale), base::did_you_mean(scale, known));
    } else if (scale == "log" && *low <= 0) {
      reader_.fail(range, fmt::format("a log scale cannot begin at {}", *low),
                   "begin at 1 or more, or use scale: linear");
    }
    auto steps = std::optional<int64_t>(3);
    if (nodes_.steps != nullptr) {
      steps = reader_.whole(*nodes_.steps, name_ + ".steps", 2, 64);
    }
    if (nodes_.usual == nullptr) {
      reader_.fail(*nodes_.key, fmt::format("{} has no default", name_),
                   "add default: VALUE, a number in the range");
    }
    auto usual = nodes_.usual != nullptr ? bound(*nodes_.usual) : std::nullopt;
    if (failed() || !usual) {
      return;
    }
    if (*usual < *low || *usual > *high) {
      reader_.fail(*nodes_.usual, fmt::format("the default {} of {} is outside the range", *usual, name_),
                   fmt::format("write a number from {} to {}", *low, *high));
      return;
    }
    bool whole = kind_.kind != ValueKind::kAny ||
                 (parse_whole(range.items[0].text) && parse_whole(range.items[1].text));
    if (whole && !parse_whole(nodes_.usual->text)) {
      reader_.fail(*nodes_.usual,
                   fmt::format("the default of {} must be a whole number like its range", name_),
                   "round it, or give the range decimal points");
      return;
    }
    axis_.values = expand_range(*low, *high, scale == "log", static_cast<int>(*steps), *usual, whole);
    axis_.default_index = axis_.index_of(Value(*usual));
    axis_.sweep_values = static_cast<size_t>(*steps);
    axis_.ordered = true;
  }

  // One end of a range, or the default in it.
  std::optional<double> bound(const YamlNode& node) {
    auto value = value_of(node);
    auto number = value ? parse_number(search::to_string(*value)) : std::nullopt;
    if (value && (!number || std::fabs(*number) > 1e15)) {
      reader_.fail(node, fmt::format("'{}' cannot stand in the range of {}", node.text, name_),
                   "write a number");
      return std::nullopt;
    }
    return number;
  }

  SpaceReader& reader_;
  std::string name_;
  size_t errors_before_;
  AxisNodes nodes_;
  AxisKind kind_;
  bool known_ = false;
  Axis axis_;
};

}  // namespace

AxesSection read_axes(SpaceReader& reader, const YamlNode& node, bool any_cache_type) {
  AxesSection section;
  if (node.kind != YamlNode::Kind::kMap || node.entries.empty()) {
    reader.fail(node, "axes must be a map with at least one axis",
                "write NAME: {values: [a, b], default: a}");
    return section;
  }
  if (node.entries.size() > kMaxAxes) {
    reader.fail(node, fmt::format("there are more than {} axes", kMaxAxes),
                "fix some of them in backend.args");
    return section;
  }
  for (const auto& [key, body] : node.entries) {
    AxisReader one(reader, key, body, any_cache_type);
    section.declared.push_back(key.text);
    auto axis = one.read();
    if (!axis) {
      continue;
    }
    if (auto binding = one.binding()) {
      section.bindings[axis->name] = *binding;
    }
    if (one.condition() != nullptr) {
      section.conditions.emplace_back(section.axes.size(), one.condition());
    }
    section.axes.push_back(std::move(*axis));
  }
  return section;
}

}  // namespace study
