#pragma once
// The `axes:` section of a space file.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "search/space.h"
#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {

struct AxesSection {
  std::vector<search::Axis> axes;
  std::vector<std::string> declared;  // every axis named, those with errors too
  std::map<std::string, AxisBinding> bindings;
  // active_when conditions by axis index, to be parsed once every axis is known.
  std::vector<std::pair<size_t, const YamlNode*>> conditions;
};

// An axis with an error is left out; the errors are the reader's. `any_cache_type`: a foreign server may know
// types that we do not.
AxesSection read_axes(SpaceReader& reader, const YamlNode& node, bool any_cache_type);

}  // namespace study
