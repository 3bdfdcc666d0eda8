#pragma once
// Typed reading of a YamlNode tree with every error collected: the tool the parts of space_file are written
// in.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/study/yaml_tree.h"

namespace study {

class SpaceReader {
 public:
  explicit SpaceReader(std::string where) : where_(std::move(where)) {}

  // `offset`: columns to the right of the node's start.
  void fail(const YamlNode& at, std::string what, std::string next, size_t offset = 0);
  void fail(base::Error error) { errors_.push_back(std::move(error)); }
  const std::vector<base::Error>& errors() const { return errors_; }
  const std::string& where() const { return where_; }

  // Calls the handler of each key that is there; unknown keys and a node that is no map are errors. `name` is
  // what the map is called in messages: "backend".
  using Field = std::pair<std::string_view, std::function<void(const YamlNode&)>>;
  void read_map(const YamlNode& node, std::string_view name, const std::vector<Field>& fields);

  // nullopt after an error. `name` is the key in messages: "search.seed".
  std::optional<std::string> text(const YamlNode& node, std::string_view name);
  std::optional<int64_t> whole(const YamlNode& node, std::string_view name, int64_t least, int64_t most);
  std::optional<double> number(const YamlNode& node, std::string_view name, double least, double most);
  std::optional<double> duration_s(const YamlNode& node, std::string_view name);
  // A duration of more than 0 (which would mean no limit further down: a night lost on one server that hangs);
  // `into` keeps its value after an error.
  void timeout_s(const YamlNode& node, double& into, std::string_view name);
  // A relative path means the space file's directory first: a study works from wherever it is started.
  std::string resolve(const std::string& path) const;
  // text with ${VARIABLE} and ${VARIABLE:-default} replaced.
  std::optional<std::string> expanded(const YamlNode& node, std::string_view name);
  // A list's items, or the node itself when it is a scalar; an empty list is an error.
  std::vector<const YamlNode*> list(const YamlNode& node, std::string_view name);

 private:
  std::string where_;
  std::vector<base::Error> errors_;
};

// Whole-text conversions; nullopt for anything else.
std::optional<int64_t> parse_whole(std::string_view text);
std::optional<double> parse_number(std::string_view text);

// [A-Za-z_][A-Za-z0-9_]*
bool is_variable_name(std::string_view name);

// Replaces ${NAME} and ${NAME:-default} (which holds for unset and empty, as in a shell); `$$` is a dollar
// sign and any other `$` stays. The Error names what is undefined or unclosed; its where is empty.
base::Result<std::string> expand_variables(
    std::string_view text, const std::function<std::optional<std::string>(const std::string&)>& lookup);

}  // namespace study
