#include "src/study/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <sstream>

namespace study {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr size_t kMaxDepth = 32;

struct TooDeep {
  int line, column;
};

// yaml-cpp's nodes drop duplicate keys and its marks count from 0; its events do neither.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(YamlTree& tree, std::string_view where) : tree_(tree), where_(where) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(node(YamlNode::Kind::kNull, mark, "", anchor));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "aliases (*name) are not allowed", "write the value out");
    add(node(YamlNode::Kind::kNull, mark, "", 0));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode scalar = node(YamlNode::Kind::kScalar, mark, tag, anchor);
    scalar.quoted = tag == "!";
    scalar.text = value;
    add(std::move(scalar));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(node(YamlNode::Kind::kList, mark, tag, anchor), mark);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(node(YamlNode::Kind::kMap, mark, tag, anchor), mark);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlNode node;
    YamlNode key;
    bool has_key = false;
  };

  void fail(const YAML::Mark& mark, std::string what, std::string next) {
    tree_.errors.push_back(base::error(fmt::format("{}:{}:{}", where_, mark.line + 1, mark.column + 1),
                                       std::move(what), std::move(next)));
  }

  YamlNode node(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) {
      fail(mark, "anchors (&name) are not allowed", "write the value out where it is needed");
    }
    if (!tag.empty() && tag != "?" && tag != "!") {
      fail(mark, fmt::format("the tag {} is not allowed", tag), "remove it: values are typed by their key");
    }
    YamlNode made;
    made.kind = kind;
    made.line = mark.line + 1;
    made.column = mark.column + 1;
    return made;
  }

  void open(YamlNode made, const YAML::Mark& mark) {
    if (levels_.size() >= kMaxDepth) {
      throw TooDeep{mark.line + 1, mark.column + 1};
    }
    levels_.push_back({std::move(made), {}, false});
  }

  void close() {
    YamlNode made = std::move(levels_.back().node);
    levels_.pop_back();
    add(std::move(made));
  }

  void add(YamlNode made) {
    if (levels_.empty()) {
      tree_.root = std::move(made);
      return;
    }
    Level& level = levels_.back();
    if (level.node.kind == YamlNode::Kind::kList) {
      level.node.items.push_back(std::move(made));
    } else if (!level.has_key) {
      level.key = std::move(made);
      level.has_key = true;
    } else {
      level.has_key = false;
      add_entry(level, std::move(made));
    }
  }

  void add_entry(Level& level, YamlNode value) {
    const YamlNode& key = level.key;
    auto mark_of = [](const YamlNode& at) {
      YAML::Mark mark;
      mark.line = at.line - 1;
      mark.column = at.column - 1;
      return mark;
    };
    if (key.kind != YamlNode::Kind::kScalar || key.text.empty()) {
      fail(mark_of(key), "a key must be a plain name", "write NAME: VALUE");
      return;
    }
    if (const YamlNode* first = level.node.find(key.text)) {
      fail(mark_of(key), fmt::format("'{}' stands here a second time", key.text),
           fmt::format("keep one; the first has its value on line {}", first->line));
      return;
    }
    level.node.entries.push_back({level.key, std::move(value)});
  }

  YamlTree& tree_;
  std::string_view where_;
  std::vector<Level> levels_;
};

// yaml-cpp takes byte 4 for the end of the file and would drop what follows in silence.
bool refuse_control_characters(std::string_view text, std::string_view where, YamlTree& tree) {
  int line = 1;
  size_t line_start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '\n') {
      ++line;
      line_start = i + 1;
    } else if ((byte < 0x20 && byte != '\t' && byte != '\r') || byte == 0x7f) {
      tree.errors.push_back(base::error(fmt::format("{}:{}:{}", where, line, i - line_start + 1),
                                        fmt::format("control character 0x{:02x}", byte),
                                        "remove it; a space file is plain UTF-8 text"));
      return true;
    }
  }
  return false;
}

// How many bytes from here are one character of UTF-8 (Unicode 15, table 3-7), 0 for none.
size_t utf8_character(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  const int first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  const size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  const int low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;   // not longer than need be
  const int high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;  // no surrogate, none over U+10FFFF
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) {
      return 0;
    }
  }
  return length;
}

// The journal keeps the text as JSON, which holds only UTF-8, and its hash is of these very bytes.
bool refuse_other_encodings(std::string_view text, std::string_view where, YamlTree& tree) {
  int line = 1;
  size_t line_start = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_character(text.substr(i));
    if (length == 0) {
      tree.errors.push_back(
          base::error(fmt::format("{}:{}:{}", where, line, i - line_start + 1),
                      fmt::format("byte 0x{:02x} is not UTF-8", static_cast<unsigned char>(text[i])),
                      "save the file as UTF-8, or remove the character"));
      return true;
    }
    if (text[i] == '\n') {
      ++line;
      line_start = i + 1;
    }
    i += length;
  }
  return false;
}

// Of a text that is not YAML: whether a tab in its indentation may be why. yaml-cpp's words for one are about something
// else. (Behind the spaces of a text block's line, or within brackets, a tab is allowed.)
bool refuse_tabs(std::string_view text, std::string_view where, YamlTree& tree) {
  int line = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view row = text.substr(at, end - at);
    at = end + 1;
    ++line;
    size_t first = row.find_first_not_of(" \t\r");
    size_t tab = row.substr(0, first).find('\t');
    if (first != std::string_view::npos && row[first] != '#' && tab != std::string_view::npos) {
      tree.errors.push_back(base::error(fmt::format("{}:{}:{}", where, line, tab + 1),
                                        "a tab: tabs are not allowed in indentation", "indent with spaces"));
      return true;
    }
  }
  return false;
}

// The column (from 1) of a tab in this line (from 1), 0 for none.
size_t tab_in_line(std::string_view text, int line) {
  for (int i = 1; i < line; ++i) {
    size_t end = text.find('\n');
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  size_t tab = text.substr(0, text.find('\n')).find('\t');
  return tab == std::string_view::npos ? 0 : tab + 1;
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.text == key) {
      return &value;
    }
  }
  return nullptr;
}

YamlTree parse_yaml(std::string_view text, std::string_view where) {
  YamlTree tree;
  if (text.size() > kMaxBytes) {
    tree.errors.push_back(base::error(std::string(where), "is larger than 1 MB", "is this a space file?"));
    return tree;
  }
  if (refuse_control_characters(text, where, tree) || refuse_other_encodings(text, where, tree)) {
    return tree;
  }
  auto fail = [&](int line, int column, std::string what, std::string next) {
    tree.errors.push_back(
        base::error(fmt::format("{}:{}:{}", where, line, column), std::move(what), std::move(next)));
  };
  std::istringstream in{std::string(text)};
  try {
    YAML::Parser parser(in);
    TreeBuilder builder(tree, where);
    if (!parser.HandleNextDocument(builder)) {
      fail(1, 1, "the file is empty", "start from configs/demo.yaml");
      return tree;
    }
    YamlTree rest;
    TreeBuilder ignored(rest, where);
    if (parser.HandleNextDocument(ignored)) {
      fail(rest.root.line, rest.root.column, "a second document begins here", "remove the line ---");
    }
  } catch (const YAML::Exception& e) {
    if (refuse_tabs(text, where, tree)) {
      return tree;
    }
    if (size_t tab = tab_in_line(text, e.mark.line + 1); tab > 0) {
      fail(e.mark.line + 1, static_cast<int>(tab), "a tab, and this is not YAML: tabs are not allowed here",
           "write spaces instead");
      return tree;
    }
    fail(e.mark.line + 1, e.mark.column + 1, fmt::format("this is not YAML: {}", e.msg),
         "check indentation, colons, quotes and brackets here and on the line before");
  } catch (const TooDeep& deep) {
    fail(deep.line, deep.column, "nested more than 32 levels deep", "no setting needs that");
  }
  return tree;
}

}  // namespace study
