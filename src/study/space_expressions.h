#pragma once
// Expressions of a space file, parsed and checked: every name is an axis, a metric or a value of the axis it
// is compared with, and the types fit.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "search/expression.h"
#include "search/space.h"
#include "src/study/space_reader.h"

namespace study {

struct Names {
  const search::Space* space = nullptr;
  std::vector<std::string> declared;  // axes named in the file, those with errors too
};

enum class ExpressionUse {
  kConstraint,  // axes only, true or false; holds for the default
  kCondition,   // axes only, true or false
  kLimit,       // axes and metrics, true or false
  kMaximize,    // axes and metrics, a number
};

// nullopt after an error. `name` is the key in messages: "constraints".
std::optional<search::Expression> read_expression(SpaceReader& reader, const YamlNode& node,
                                                  std::string_view name, const Names& names,
                                                  ExpressionUse use);

}  // namespace study
