#pragma once
// The axes every backend understands, and how their values are written. One table; other axes need `flag:` or
// `env:` and take numbers, true/false or names as they come.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "search/space.h"
#include "src/base/error.h"

namespace study {

// kText: as written, whatever it looks like. kTypeAndCount: one of the names, a comma and a whole number; or "off".
enum class ValueKind { kWhole, kWholeOrWord, kWord, kSwitch, kTypeAndCount, kBool, kText, kAny };

struct AxisKind {
  std::string_view name;
  ValueKind kind = ValueKind::kAny;
  int64_t least = 0, most = 0;          // of whole numbers
  std::vector<std::string_view> words;  // allowed names
};

std::span<const AxisKind> axis_kinds();
const AxisKind* find_axis_kind(std::string_view name);
std::vector<std::string> known_axis_names();
// f32 f16 bf16 q8_0 ... tcq3_0
std::span<const std::string_view> cache_type_names();

// A scalar as a value of this axis: `on` is a name on flash_attn and true on mmap. The Error's where is
// empty.
base::Result<search::Value> parse_axis_value(const AxisKind& kind, std::string_view text);

// `steps` points from low to high, both included. Whole numbers when `whole`: on a log scale between powers
// of two, powers of two. `usual` is added; an inner point less than a quarter step from it gives way.
// Ascending, no point twice. Needs low < high, steps >= 2, low <= usual <= high, and low > 0 for a log scale.
std::vector<search::Value> expand_range(double low, double high, bool log_scale, int steps, double usual,
                                        bool whole);

}  // namespace study
