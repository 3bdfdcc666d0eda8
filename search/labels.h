#pragma once
// Axis values that are paths, as outsiders are told of them: by file name alone, for what they are told may leave the
// house. Pure.

#include <string>
#include <utility>
#include <vector>

#include "search/space.h"
#include "src/base/json.h"

namespace search {

class Labels {
 public:
  // Every value with a slash in it gets its last part as a label; "NAME (2)" where that is taken already.
  explicit Labels(const Space& space);

  // Puts labels in place of the paths, in every text within `told` and wherever they stand in it.
  void hide(base::Json& told) const;
  // What was proposed: a label becomes the value it stands for; whatever is none stays.
  base::Json values(base::Json params) const;

 private:
  std::vector<std::pair<std::string, std::string>> labels_;  // value, label; the longest value first
};

}  // namespace search
