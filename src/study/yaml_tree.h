#pragma once
// YAML text as a tree of our own: every scalar as the text that stands in the file (`on` stays "on", quoted
// or not), 1-based positions, duplicate keys and everything we refuse (anchors, aliases, tags, several
// documents) reported. yaml-cpp stays in the .cc.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace study {

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap } kind = Kind::kNull;
  int line = 1, column = 1;
  bool quoted = false;             // a scalar in quotes or a block scalar
  std::string text;                // of a scalar
  std::vector<YamlNode> items;     // of a list
  std::vector<YamlEntry> entries;  // of a map, in the file's order

  const YamlNode* find(std::string_view key) const;  // nullptr when absent or no map
};

struct YamlEntry {
  YamlNode key, value;  // the key is a scalar
};

struct YamlTree {
  YamlNode root;
  std::vector<base::Error> errors;  // where is "file:line:column"; the tree holds what could be read
};

// `where` is the file's name in errors. At most 1 MB and 32 levels.
YamlTree parse_yaml(std::string_view text, std::string_view where);

}  // namespace study
