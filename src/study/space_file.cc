#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "src/base/suggest.h"
#include "src/os/files.h"
#include "src/study/axis_kinds.h"
#include "src/study/backends.h"
#include "src/study/objective.h"
#include "src/study/space_axes.h"
#include "src/study/space_backend.h"
#include "src/study/space_expressions.h"
#include "src/study/space_probes.h"
#include "src/study/space_reader.h"
#include "src/study/space_search.h"
#include "src/study/study.h"

namespace study {
namespace {

constexpr uint64_t kMaxSpaceFile = 1 << 20;
constexpr std::string_view kNotWorseThan = "not_worse_than";
constexpr size_t kMostPareto = 3;

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (size_t pos = 0; pos < text.size();) {
    size_t end = std::min(text.find_first_of(" \t", pos), text.size());
    if (end > pos) {
      words.push_back(text.substr(pos, end - pos));
    }
    pos = end + 1;
  }
  return words;
}

// "quality not_worse_than f16", typing errors in the middle word included.
bool is_not_worse_than(const std::string& text) {
  auto words = words_of(text);
  return text.find(kNotWorseThan) != std::string::npos ||
         (words.size() == 3 && words[0] == "quality" && base::edit_distance(words[1], kNotWorseThan) < 4);
}

// Of ASCII, and in UTF-8 those of Latin-1 (C1), which terminals obey too.
bool has_control_character(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte < ' ' || byte == 127 || (byte == 0xC2 && next < 0xA0)) {
      return true;
    }
  }
  return false;
}

class StudyReader {
 public:
  StudyReader(SpaceReader& reader, const YamlNode& root, SpaceOrigin origin)
      : reader_(reader), root_(root), is_new_(origin == SpaceOrigin::kFile) {
    study_.probes.quality = false;  // there is no suite to fall back on
  }

  Study read() {
    auto ignore = [](const YamlNode&) {};
    reader_.read_map(
        root_, "the space file",
        {{"study", [&](const YamlNode& at) { read_name(at); }},
         {"model", [&](const YamlNode& at) { read_model(at); }},
         {"service", [&](const YamlNode& at) { study::read_service(reader_, at, study_.service); }},
         {"backend", [&](const YamlNode& at) { study::read_backend(reader_, at, study_.backend); }},
         {"axes", ignore},
         {"constraints", ignore},
         {"objective", ignore},
         {"search", [&](const YamlNode& at) { study::read_search(reader_, at, study_.search); }},
         {"probes",
          [&](const YamlNode& at) { lengths_at_ = study::read_probes(reader_, at, study_.probes); }}});
    // What names axes and probes comes after them, wherever it stands in the file.
    if (const YamlNode* axes =
            required("axes", "write axes: with one NAME: {values: [...], default: ...} per setting")) {
      read_space(*axes);
    }
    if (const YamlNode* objective = required("objective", "write objective: {maximize: [decode_tps]}")) {
      read_objective(*objective);
    }
    required("study", "write study: NAME");
    check_model();
    check_needle_lengths(reader_, lengths_at_, study_);
    if (const YamlNode* probes = root_.find("probes"); probes != nullptr) {
      check_context(reader_, *probes, study_);
    }
    return std::move(study_);
  }

 private:
  const YamlNode* required(std::string_view key, std::string next) {
    const YamlNode* found = root_.find(key);
    if (root_.kind == YamlNode::Kind::kMap && found == nullptr) {
      reader_.fail(root_, fmt::format("'{}' is missing", key), std::move(next));
    }
    return found;
  }

  // The journal is runs/NAME-TIME.jsonl unless --out says otherwise, and the name is printed.
  void read_name(const YamlNode& at) {
    constexpr size_t kMostBytes = 80;
    auto name = reader_.text(at, "study");
    if (!name) {
      return;
    }
    const char* wrong = name->find('/') != std::string::npos ? "has a slash, and files are named after it"
                        : name->front() == '.'         ? "begins with a dot, and files are named after it"
                        : has_control_character(*name) ? "has control characters"
                        : name->size() > kMostBytes    ? "is longer than 80 bytes"
                                                       : nullptr;
    if (wrong != nullptr && is_new_) {
      reader_.fail(at, fmt::format("the study's name {}", wrong), "write a plain name, such as minimax-m2.5");
      return;
    }
    study_.name = *std::move(name);
  }

  void read_model(const YamlNode& at) {
    if (auto path = reader_.expanded(at, "model")) {
      study_.model = reader_.resolve(*path);
    }
  }

  // One model for the whole study, or an axis of them. A running server has its own; naming it is a check.
  void check_model() {
    const search::Axis* axis = study_.space.find("model");
    if (axis == nullptr) {
      if (study_.backend.kind != BackendKind::kUrl) {
        required("model", "write model: PATH");
      }
      return;
    }
    if (const YamlNode* twice = root_.find("model")) {
      reader_.fail(*twice, "the model is an axis already", "remove one of the two");
    }
    study_.model = search::to_string(axis->values[axis->default_index]);
  }

  void read_space(const YamlNode& at) {
    AxesSection section = read_axes(reader_, at, study_.backend.kind != BackendKind::kTbqServer);
    study_.space.axes = std::move(section.axes);
    study_.bindings = std::move(section.bindings);
    names_ = {&study_.space, std::move(section.declared)};
    for (const auto& [axis, node] : section.conditions) {
      const std::string name = study_.space.axes[axis].name;
      auto condition =
          read_expression(reader_, *node, name + ".active_when", names_, ExpressionUse::kCondition);
      auto used = condition ? condition->names() : std::vector<std::string>();
      if (std::find(used.begin(), used.end(), name) != used.end()) {
        reader_.fail(*node, fmt::format("{} is active by its own value", name), "name another axis");
      }
      study_.space.axes[axis].active_when = std::move(condition);
    }
    const YamlNode* constraints = root_.find("constraints");
    if (constraints == nullptr ||
        (constraints->kind == YamlNode::Kind::kList && constraints->items.empty())) {
      return;
    }
    for (const YamlNode* item : reader_.list(*constraints, "constraints")) {
      if (auto expression =
              read_expression(reader_, *item, "constraints", names_, ExpressionUse::kConstraint)) {
        study_.space.constraints.push_back(std::move(*expression));
      }
    }
  }

  void read_objective(const YamlNode& at) {
    names_.space = &study_.space;
    reader_.read_map(
        at, "objective",
        {{"maximize", [&](const YamlNode& value) { read_maximize(value, "objective.maximize"); }},
         {"pareto", [&](const YamlNode& value) { read_pareto(value); }},
         {"subject_to", [&](const YamlNode& value) { read_limits(value); }}});
    if (at.kind == YamlNode::Kind::kMap && at.find("maximize") == nullptr && at.find("pareto") == nullptr) {
      reader_.fail(at, "objective has no maximize", "write maximize: [decode_tps]");
    }
    if (at.kind == YamlNode::Kind::kMap && at.find("maximize") != nullptr && at.find("pareto") != nullptr) {
      reader_.fail(at, "objective has both maximize and pareto",
                   "keep maximize where one entry goes before the next, pareto where none does");
    }
  }

  void read_pareto(const YamlNode& at) {
    read_maximize(at, "objective.pareto");
    study_.objective.pareto = true;
    if (at.kind != YamlNode::Kind::kList || at.items.size() < 2) {
      reader_.fail(at, "objective.pareto needs two entries or more",
                   "write pareto: [decode_tps, prefill_tps]");
    } else if (is_new_ && at.items.size() > kMostPareto) {
      reader_.fail(
          at,
          fmt::format("objective.pareto has {} entries; a front of more than {} holds nearly every point",
                      at.items.size(), kMostPareto),
          "keep the three that matter most, and write limits (subject_to) for the others");
    }
  }

  void read_maximize(const YamlNode& at, std::string_view name) {
    for (const YamlNode* item : reader_.list(at, name)) {
      if (auto expression = read_expression(reader_, *item, name, names_, ExpressionUse::kMaximize)) {
        need_probes(*item, *expression);
        study_.objective.maximize.push_back(std::move(*expression));
      }
    }
  }

  void read_limits(const YamlNode& at) {
    if (at.kind == YamlNode::Kind::kList && at.items.empty()) {
      return;
    }
    for (const YamlNode* item : reader_.list(at, "objective.subject_to")) {
      if (is_not_worse_than(item->text)) {
        read_not_worse_than(*item);
      } else if (auto expression =
                     read_expression(reader_, *item, "objective.subject_to", names_, ExpressionUse::kLimit)) {
        need_probes(*item, *expression);
        study_.objective.subject_to.push_back(std::move(*expression));
      }
    }
  }

  void read_not_worse_than(const YamlNode& at) {
    std::vector<std::string> words = words_of(at.text);
    if (words.size() != 3 || words[0] != "quality" || words[1] != kNotWorseThan) {
      reader_.fail(at, fmt::format("'{}' is not a limit", at.text), "write quality not_worse_than f16");
      return;
    }
    auto types = cache_type_names();
    const std::vector<std::string> known(types.begin(), types.end());
    if (std::find(known.begin(), known.end(), words[2]) == known.end()) {
      reader_.fail(at, fmt::format("'{}' is not a cache type", words[2]), base::did_you_mean(words[2], known),
                   at.text.rfind(words[2]) + (at.quoted ? 1 : 0));
      return;
    }
    need_probe(at, "quality", "quality");
    study_.objective.quality_not_worse_than.push_back(words[2]);
  }

  void need_probes(const YamlNode& at, const search::Expression& expression) {
    for (std::string name : expression.names()) {
      if (name.starts_with("default.")) {
        name = name.substr(8);
      }
      const MetricInfo* metric = find_metric(name);
      if (metric != nullptr && study_.space.find(name) == nullptr) {
        need_probe(at, metric->probe, name);
        need_source(at, name);
      }
    }
  }

  // What no probe measures: the server tells it, its process does, or an axis sets it.
  void need_source(const YamlNode& at, const std::string& metric) {
    const BackendKind kind = study_.backend.kind;
    const auto& declared = names_.declared;
    if (metric == "ctx_size" && std::find(declared.begin(), declared.end(), metric) == declared.end()) {
      reader_.fail(at, "ctx_size is used here, but it is no axis",
                   "write axes: {ctx_size: {values: [4096, 8192], default: 4096}}, or remove it here");
    } else if (metric == "kv_mib" && (kind == BackendKind::kLlamaServer || kind == BackendKind::kOpenAi)) {
      reader_.fail(at, fmt::format("kv_mib is used here, but kind {} does not tell it", to_string(kind)),
                   kind == BackendKind::kLlamaServer ? "use rss_gib or min_headroom_gib, or kind: tbq-server"
                                                     : "use rss_gib or min_headroom_gib");
    } else if ((metric == "min_headroom_gib" || metric == "rss_gib" || metric == "load_s") &&
               kind == BackendKind::kUrl) {
      reader_.fail(
          at,
          fmt::format("{} is used here, but it is measured only of a server that the study launches", metric),
          "remove it, or let the study launch the server: backend: {kind: tbq-server}");
    }
  }

  void need_probe(const YamlNode& at, std::string_view probe, std::string_view metric) {
    ProbeOptions& probes = study_.probes;
    auto off = [&](std::string next) {
      reader_.fail(at, fmt::format("{} is used here, but the {} probe is off", metric, probe),
                   std::move(next));
    };
    if (probe == "half_context") {
      probes.half_context = true;
      if (!probes.speed) {
        off("remove probes.speed: off");
      }
    } else if (probe == "quality" && !probes.quality) {
      off("give it a suite: probes: {quality: {suite: prompts/known-answer.json}}");
    } else if (probe == "speed" && !probes.speed) {
      off("remove probes.speed: off");
    } else if (probe == "needle" && !probes.needle) {
      off("remove probes.needle: off");
    } else if (probe == "perplexity" && !probes.perplexity) {
      off("give it a text: probes: {perplexity: {corpus: FILE}}");
    } else if (probe == "curve" && probes.curve.depths.empty()) {
      off("give it depths: probes: {curve: {depths: [1000, 4000, 16000, 32000]}}");
    }
  }

  SpaceReader& reader_;
  const YamlNode& root_;
  const bool is_new_;
  Study study_;
  Names names_;
  const YamlNode* lengths_at_ = nullptr;
};

// "file:line:column" with numbers that sort as numbers.
std::tuple<long, long> position(const base::Error& error) {
  size_t last = error.where.rfind(':');
  size_t before =
      last == std::string::npos || last == 0 ? std::string::npos : error.where.rfind(':', last - 1);
  if (before == std::string::npos) {
    return {0, 0};
  }
  return {parse_whole(error.where.substr(before + 1, last - before - 1)).value_or(0),
          parse_whole(error.where.substr(last + 1)).value_or(0)};
}

}  // namespace

std::string SpaceFileErrors::to_string() const {
  std::string text;
  for (const base::Error& error : errors) {
    text += error.to_string() + "\n";
  }
  return text;
}

std::variant<Study, SpaceFileErrors> parse_space_file(std::string_view text, const std::string& where,
                                                      SpaceOrigin origin) {
  YamlTree tree = parse_yaml(text, where);
  SpaceReader reader(where);
  for (base::Error& error : tree.errors) {
    reader.fail(std::move(error));
  }
  // After a syntax error the rest of the tree is a guess; duplicate keys and anchors leave it whole.
  bool whole = tree.root.kind == YamlNode::Kind::kMap || reader.errors().empty();
  Study study;
  if (whole) {
    study = StudyReader(reader, tree.root, origin).read();
  }
  if (!reader.errors().empty()) {
    SpaceFileErrors all{reader.errors()};
    std::stable_sort(all.errors.begin(), all.errors.end(),
                     [](const base::Error& a, const base::Error& b) { return position(a) < position(b); });
    return all;
  }
  study.path = where;
  study.text = std::string(text);
  return study;
}

std::variant<Study, SpaceFileErrors> load_space_file(const std::string& path) {
  auto text = os::read_file(path, kMaxSpaceFile);
  if (!text) {
    return SpaceFileErrors{{text.failure()}};
  }
  return parse_space_file(*text, path);
}

}  // namespace study
