#pragma once
// The space of configurations: axes with values and a default, constraints between them. Pure; made by
// src/study/space_file from YAML, or by a test.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "search/expression.h"
#include "src/base/error.h"
#include "src/base/json.h"

namespace search {

struct Axis {
  std::string name;
  std::vector<Value> values;  // the points tried: numbers ascending, names in the file's order
  size_t default_index = 0;
  bool ordered = true;      // numbers have neighbours; names (cache types) do not
  size_t sweep_values = 3;  // how many of them, besides the default, a sweep tries first
  std::optional<Expression> active_when;

  size_t index_of(const Value& value) const;  // values.size() when absent
};

// One value per axis, in the axes' order.
using Config = std::vector<Value>;

struct Space {
  std::vector<Axis> axes;
  std::vector<Expression> constraints;

  Config default_config() const;
  const Axis* find(std::string_view name) const;
  size_t index_of(std::string_view name) const;  // axes.size() when absent
  // Empty when every constraint holds, else the text of the first that does not. One that cannot be evaluated
  // does not hold.
  std::string violated(const Config& config) const;
  // Inactive axes (active_when false) set to their default, so that equal trials compare equal.
  Config canonical(const Config& config) const;
  // Number of points of the full grid, as a double since it overflows.
  double grid_size() const;
};

base::Json to_json(const Space& space, const Config& config);  // {"ctx_size": 16384, ...}
// Every axis must be there, with one of its values; errors name axis and value.
base::Result<Config> from_json(const Space& space, const base::Json& params);
// Equal for equal configurations and no others; for maps and sets.
std::string key_of(const Config& config);
// "cache_type_k=q8_0 n_batch=512": what differs from `base`, for people; "default" when nothing does.
std::string describe(const Space& space, const Config& config, const Config& base);

}  // namespace search
