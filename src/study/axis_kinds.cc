#include "src/study/axis_kinds.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "src/base/kv_types.h"
#include "src/base/suggest.h"
#include "src/study/space_reader.h"

namespace study {

using search::Value;

namespace {

constexpr std::array kCacheTypes = [] {
  std::array<std::string_view, std::size(base::kKvTypes)> names;
  for (size_t i = 0; i < names.size(); ++i) {
    names[i] = base::kKvTypes[i].name;
  }
  return names;
}();
constexpr int64_t kMaxTokens = 1 << 30;
constexpr int64_t kMaxThreads = 4096;

std::vector<std::string> strings(std::span<const std::string_view> views) {
  return {views.begin(), views.end()};
}

bool is_power_of_two(double value) {
  return value >= 1 && value <= 1e15 && value == std::floor(value) &&
         std::has_single_bit(static_cast<uint64_t>(value));
}

Value as_value(double point, bool whole) {
  return whole ? Value(static_cast<int64_t>(std::nearbyint(point))) : Value(point);
}

// Three significant digits are plenty for a fraction and readable on a command line.
double rounded(double point) {
  return std::stod(fmt::format("{:.3g}", point));
}

// "off", or "q8_0,2".
base::Result<Value> parse_type_and_count(const AxisKind& kind, std::string_view text) {
  const size_t comma = text.find(',');
  const std::string_view type = text.substr(0, comma);
  const int64_t count =
      comma == std::string_view::npos ? -1 : parse_whole(text.substr(comma + 1)).value_or(-1);
  const bool known = std::find(kind.words.begin(), kind.words.end(), type) != kind.words.end();
  if (text == "off" || (known && count >= 0 && count >= kind.least && count <= kind.most)) {
    return Value(std::string(text));
  }
  return base::error("", fmt::format("'{}' is not a value of {}", text, kind.name),
                     comma != std::string_view::npos && !known
                         ? base::did_you_mean(type, strings(kind.words))
                         : "write off, or a cache type and a number of layers, as \"q8_0,2\"");
}

}  // namespace

std::span<const AxisKind> axis_kinds() {
  static const std::vector<AxisKind> kTable = {
      {"n_gpu_layers", ValueKind::kWholeOrWord, 0, 100000, {"all", "auto"}},
      {"ctx_size", ValueKind::kWhole, 0, kMaxTokens, {}},
      {"cache_type_k", ValueKind::kWord, 0, 0, {std::begin(kCacheTypes), std::end(kCacheTypes)}},
      {"cache_type_v", ValueKind::kWord, 0, 0, {std::begin(kCacheTypes), std::end(kCacheTypes)}},
      {"kv_rotate", ValueKind::kSwitch, 0, 0, {"on", "off", "auto"}},
      {"kv_first_last", ValueKind::kTypeAndCount, 0, 1024, {std::begin(kCacheTypes), std::end(kCacheTypes)}},
      {"kv_center", ValueKind::kSwitch, 0, 0, {"off", "on"}},
      {"kv_sink", ValueKind::kWhole, 0, kMaxTokens, {}},
      {"kv_tail", ValueKind::kWhole, 0, kMaxTokens, {}},
      {"activations", ValueKind::kWord, 0, 0, {"q8", "f32"}},
      {"n_batch", ValueKind::kWhole, 1, kMaxTokens, {}},
      {"n_ubatch", ValueKind::kWhole, 1, kMaxTokens, {}},
      {"flash_attn", ValueKind::kSwitch, 0, 0, {"on", "off", "auto"}},
      {"n_threads", ValueKind::kWhole, 1, kMaxThreads, {}},
      {"n_threads_batch", ValueKind::kWhole, 1, kMaxThreads, {}},
      {"numa", ValueKind::kWord, 0, 0, {"disabled", "distribute", "isolate", "numactl"}},
      {"mmap", ValueKind::kBool, 0, 0, {}},
      {"mlock", ValueKind::kBool, 0, 0, {}},
      {"n_draft", ValueKind::kWhole, 0, 1024, {}},
      {"parallel", ValueKind::kWhole, 1, 1024, {}},
      {"model", ValueKind::kText, 0, 0, {}},   // paths, or names where the server takes names
      {"binary", ValueKind::kText, 0, 0, {}},  // paths, or names in PATH
  };
  return kTable;
}

const AxisKind* find_axis_kind(std::string_view name) {
  for (const AxisKind& kind : axis_kinds()) {
    if (kind.name == name) {
      return &kind;
    }
  }
  return nullptr;
}

std::vector<std::string> known_axis_names() {
  std::vector<std::string> names;
  for (const AxisKind& kind : axis_kinds()) {
    names.emplace_back(kind.name);
  }
  return names;
}

std::span<const std::string_view> cache_type_names() {
  return kCacheTypes;
}

base::Result<Value> parse_axis_value(const AxisKind& kind, std::string_view text) {
  auto whole = parse_whole(text);
  bool is_word = std::find(kind.words.begin(), kind.words.end(), text) != kind.words.end();
  switch (kind.kind) {
    case ValueKind::kWhole:
    case ValueKind::kWholeOrWord:
      if (is_word) {
        return Value(std::string(text));
      }
      if (whole && *whole >= kind.least && *whole <= kind.most) {
        return Value(*whole);
      }
      return base::error(
          "", fmt::format("'{}' is not a value of {}", text, kind.name),
          fmt::format("write a whole number from {} to {}{}", kind.least, kind.most,
                      kind.words.empty() ? "" : fmt::format(", or one of {}", strings(kind.words).front())));
    case ValueKind::kSwitch:
      if (text == "true" || text == "false") {
        return base::error("", fmt::format("'{}' is not a value of {}", text, kind.name),
                           fmt::format("write {}", text == "true" ? "on" : "off"));
      }
      [[fallthrough]];
    case ValueKind::kWord:
      if (is_word) {
        return Value(std::string(text));
      }
      return base::error("", fmt::format("'{}' is not a value of {}", text, kind.name),
                         base::did_you_mean(text, strings(kind.words)));
    case ValueKind::kTypeAndCount:
      return parse_type_and_count(kind, text);
    case ValueKind::kBool:
      if (text == "true" || text == "on" || text == "yes") {
        return Value(true);
      }
      if (text == "false" || text == "off" || text == "no") {
        return Value(false);
      }
      return base::error("", fmt::format("'{}' is not a value of {}", text, kind.name),
                         "write true or false");
    case ValueKind::kText:
      return Value(std::string(text));
    case ValueKind::kAny:
      break;
  }
  if (text == "true" || text == "false") {
    return Value(text == "true");
  }
  if (whole) {
    return Value(*whole);
  }
  auto real = parse_number(text);
  return real ? Value(*real) : Value(std::string(text));
}

std::vector<Value> expand_range(double low, double high, bool log_scale, int steps, double usual,
                                bool whole) {
  AR_CHECK(low < high && steps >= 2 && usual >= low && usual <= high && (!log_scale || low > 0),
           "expand_range called with a range that was not checked");
  bool powers = log_scale && whole && is_power_of_two(low) && is_power_of_two(high);
  auto place = [&](double point) { return log_scale ? std::log(point) : point; };
  double step = (place(high) - place(low)) / (steps - 1);
  std::vector<double> points = {low, usual, high};
  for (int i = 1; i + 1 < steps; ++i) {
    double at = place(low) + step * i;
    double point = log_scale ? std::exp(at) : at;
    point = powers  ? std::exp2(std::nearbyint(std::log2(point)))
            : whole ? std::nearbyint(point)
                    : rounded(point);
    if (point > low && point < high && std::fabs(place(point) - place(usual)) >= step / 4) {
      points.push_back(point);
    }
  }
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());
  std::vector<Value> values;
  for (double point : points) {
    values.push_back(as_value(point, whole));
  }
  return values;
}

}  // namespace study
