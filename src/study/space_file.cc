#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "src/base/suggest.h"
#include "src/os/files.h"
#include "src/study/axis_kinds.h"
#include "src/study/backends.h"
#include "src/study/clock.h"
#include "src/study/objective.h"
#include "src/study/space_axes.h"
#include "src/study/space_expressions.h"
#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {
namespace {

constexpr uint64_t kMaxSpaceFile = 1 << 20, kMaxSuite = 4 << 20;
constexpr std::string_view kNotWorseThan = "not_worse_than";
constexpr int kPromptOverhead = 64;  // tokens of question and chat template around a needle's filler

// A relative path means the space file's directory first: a study works from wherever it is started.
std::string resolve(const std::string& path, const std::string& space_file) {
  std::filesystem::path beside = std::filesystem::path(space_file).parent_path() / path;
  std::error_code ignored;
  if (!std::filesystem::path(path).is_absolute() && std::filesystem::exists(beside, ignored)) {
    return beside.lexically_normal().string();
  }
  return path;
}

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

class StudyReader {
 public:
  StudyReader(SpaceReader& reader, const YamlNode& root) : reader_(reader), root_(root) {
    study_.probes.quality = false;  // there is no suite to fall back on
  }

  Study read() {
    auto ignore = [](const YamlNode&) {};
    reader_.read_map(
        root_, "the space file",
        {{"study", [&](const YamlNode& at) { study_.name = reader_.text(at, "study").value_or(""); }},
         {"model", [&](const YamlNode& at) { read_model(at); }},
         {"backend", [&](const YamlNode& at) { read_backend(at); }},
         {"axes", ignore},
         {"constraints", ignore},
         {"objective", ignore},
         {"search", [&](const YamlNode& at) { read_search(at); }},
         {"probes", [&](const YamlNode& at) { read_probes(at); }}});
    // What names axes and probes comes after them, wherever it stands in the file.
    if (const YamlNode* axes =
            required("axes", "write axes: with one NAME: {values: [...], default: ...} per setting")) {
      read_space(*axes);
    }
    if (const YamlNode* objective = required("objective", "write objective: {maximize: [decode_tps]}")) {
      read_objective(*objective);
    }
    required("study", "write study: NAME");
    required("model", "write model: PATH");
    check_lengths();
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

  void read_model(const YamlNode& at) {
    if (auto path = reader_.expanded(at, "model")) {
      study_.model = resolve(*path, reader_.where());
    }
  }

  void read_backend(const YamlNode& at) {
    BackendOptions& backend = study_.backend;
    auto seconds = [this](double& into, const char* name) {
      return [this, &into, name](const YamlNode& value) {
        into = reader_.duration_s(value, name).value_or(into);
      };
    };
    reader_.read_map(at, "backend",
                     {{"kind", [&](const YamlNode& value) { read_kind(value); }},
                      {"binary",
                       [&](const YamlNode& value) {
                         backend.binary = reader_.expanded(value, "backend.binary").value_or("");
                       }},
                      {"args", [&](const YamlNode& value) { read_args(value); }},
                      {"env", [&](const YamlNode& value) { read_env(value); }},
                      {"api_key_env", [&](const YamlNode& value) { read_api_key(value); }},
                      {"load_timeout",
                       [&](const YamlNode& value) {
                         read_timeout(value, backend.load_timeout_s, "backend.load_timeout");
                       }},
                      {"load_estimate", seconds(backend.load_estimate_s, "backend.load_estimate")},
                      {"stop_grace", seconds(backend.stop_grace_s, "backend.stop_grace")}});
  }

  void read_kind(const YamlNode& at) {
    const std::vector<std::string> kinds = {"tbq-server", "llama-server"};
    auto text = reader_.text(at, "backend.kind");
    if (text == kinds[1]) {
      study_.backend.kind = BackendKind::kLlamaServer;
    } else if (text && *text != kinds[0]) {
      reader_.fail(at, fmt::format("unknown backend kind '{}'", *text), base::did_you_mean(*text, kinds));
    }
  }

  void read_args(const YamlNode& at) {
    if (at.kind == YamlNode::Kind::kList && at.items.empty()) {
      return;
    }
    bool secret_follows = false;
    for (const YamlNode* item : reader_.list(at, "backend.args")) {
      if (auto text = reader_.expanded(*item, "backend.args")) {
        study_.backend.args.push_back(*text);
      }
      size_t equals = item->text.find('=');
      bool flag = item->text.starts_with("-") && names_a_secret(item->text.substr(0, equals));
      if (secret_follows) {
        refuse_literal_secret(*item, item->text, "backend.args");
      } else if (flag && equals != std::string::npos) {
        refuse_literal_secret(*item, item->text.substr(equals + 1), "backend.args");
      }
      secret_follows = flag && equals == std::string::npos && !secret_follows;
    }
  }

  // The journal keeps the file's text, so a secret must not stand in it. The message does not repeat it.
  void refuse_literal_secret(const YamlNode& at, const std::string& raw, const std::string& name) {
    // What is left without the variables' values: literal text and ${NAME:-defaults}.
    auto literal = expand_variables(raw, [](const std::string&) { return std::string(); });
    if (literal && !literal->empty()) {
      reader_.fail(at, name + " holds a secret, which the journal would keep",
                   "put it into an environment variable and write ${THAT_VARIABLE}");
    }
  }

  void read_env(const YamlNode& at) {
    if (at.kind != YamlNode::Kind::kMap) {
      reader_.fail(at, "backend.env must be a map", "write {NAME: VALUE}");
      return;
    }
    for (const auto& [key, value] : at.entries) {
      if (!is_variable_name(key.text)) {
        reader_.fail(key, fmt::format("'{}' is not the name of a variable", key.text),
                     "use letters, digits and _");
      } else if (auto text = reader_.expanded(value, "backend.env." + key.text)) {
        study_.backend.env[key.text] = *text;
        if (names_a_secret(key.text)) {
          refuse_literal_secret(value, value.text, "backend.env." + key.text);
        }
      }
    }
  }

  void read_api_key(const YamlNode& at) {
    auto name = reader_.text(at, "backend.api_key_env");
    if (name && !is_variable_name(*name)) {
      // The value may be a key pasted by mistake: do not repeat it.
      reader_.fail(at, "backend.api_key_env is not the name of a variable",
                   "name the variable that holds the key, never the key itself");
    } else if (name) {
      study_.backend.api_key_env = *name;
    }
  }

  void read_space(const YamlNode& at) {
    AxesSection section = read_axes(reader_, at, study_.backend.kind == BackendKind::kLlamaServer);
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
    reader_.read_map(at, "objective",
                     {{"maximize", [&](const YamlNode& value) { read_maximize(value); }},
                      {"subject_to", [&](const YamlNode& value) { read_limits(value); }}});
    if (at.kind == YamlNode::Kind::kMap && at.find("maximize") == nullptr) {
      reader_.fail(at, "objective has no maximize", "write maximize: [decode_tps]");
    }
  }

  void read_maximize(const YamlNode& at) {
    for (const YamlNode* item : reader_.list(at, "objective.maximize")) {
      if (auto expression =
              read_expression(reader_, *item, "objective.maximize", names_, ExpressionUse::kMaximize)) {
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
      }
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
    }
  }

  void read_search(const YamlNode& at) {
    SearchOptions& options = study_.search;
    reader_.read_map(
        at, "search",
        {{"strategy", [&](const YamlNode& value) { read_strategy(value); }},
         {"seed",
          [&](const YamlNode& value) {
            options.seed =
                static_cast<uint64_t>(reader_.whole(value, "search.seed", 0, INT64_MAX).value_or(1));
          }},
         {"budget",
          [&](const YamlNode& value) {
            options.budget_s = reader_.duration_s(value, "search.budget").value_or(0);
          }},
         {"until", [&](const YamlNode& value) { read_until(value); }},
         {"max_trials", [&](const YamlNode& value) {
            options.max_trials = static_cast<int>(
                reader_.whole(value, "search.max_trials", 1, 100000).value_or(options.max_trials));
          }}});
  }

  void read_strategy(const YamlNode& at) {
    auto text = reader_.text(at, "search.strategy");
    if (text && search::find_strategy(*text) == nullptr) {
      std::vector<std::string> known;
      for (const auto& info : search::strategies()) {
        known.emplace_back(info.name);
      }
      reader_.fail(at, fmt::format("unknown strategy '{}'", *text), base::did_you_mean(*text, known));
    } else if (text) {
      study_.search.strategy = *text;
    }
  }

  void read_until(const YamlNode& at) {
    auto text = reader_.text(at, "search.until");
    if (!text) {
      return;
    }
    if (!seconds_until(*text, std::time(nullptr))) {
      reader_.fail(at, fmt::format("search.until must be a time of day, not '{}'", *text), "write \"07:00\"");
      return;
    }
    study_.search.until = *text;
  }

  // `off` in place of a probe's map switches it off.
  bool switched_off(const YamlNode& at, bool& flag) {
    if (at.kind == YamlNode::Kind::kScalar && (at.text == "off" || at.text == "false")) {
      flag = false;
    }
    return !flag;
  }

  std::function<void(const YamlNode&)> whole_into(int& into, std::string name, int least, int most) {
    return [this, &into, name = std::move(name), least, most](const YamlNode& value) {
      into = static_cast<int>(reader_.whole(value, name, least, most).value_or(into));
    };
  }

  void read_probes(const YamlNode& at) {
    ProbeOptions& probes = study_.probes;
    probes.quality = at.find("quality") != nullptr;
    reader_.read_map(at, "probes",
                     {{"quality", [&](const YamlNode& value) { read_quality(value); }},
                      {"speed", [&](const YamlNode& value) { read_speed(value); }},
                      {"needle", [&](const YamlNode& value) { read_needle(value); }},
                      {"memory",
                       [&](const YamlNode& value) {
                         reader_.read_map(value, "probes.memory",
                                          {{"min_headroom_gib", [&](const YamlNode& gib) {
                                              probes.min_headroom_gib =
                                                  reader_
                                                      .number(gib, "probes.memory.min_headroom_gib", 0, 4096)
                                                      .value_or(probes.min_headroom_gib);
                                            }}});
                       }},
                      {"request_timeout",
                       [&](const YamlNode& value) {
                         read_timeout(value, probes.request_timeout_s, "probes.request_timeout");
                       }},
                      {"stall_timeout", [&](const YamlNode& value) {
                         read_timeout(value, probes.stall_timeout_s, "probes.stall_timeout");
                       }}});
  }

  // 0 would mean no limit further down, and a night lost on one server that hangs.
  void read_timeout(const YamlNode& at, double& into, const char* name) {
    into = reader_.duration_s(at, name).value_or(into);
    if (into <= 0) {
      reader_.fail(at, fmt::format("{} must be more than 0", name), "write a duration such as 20m");
    }
  }

  void read_quality(const YamlNode& at) {
    ProbeOptions& probes = study_.probes;
    if (switched_off(at, probes.quality)) {
      return;
    }
    reader_.read_map(
        at, "probes.quality",
        {{"suite", [&](const YamlNode& value) { read_suite(value); }},
         {"margin", [&](const YamlNode& value) {
            probes.quality_margin =
                reader_.number(value, "probes.quality.margin", 0, 1).value_or(probes.quality_margin);
          }}});
    if (at.kind == YamlNode::Kind::kMap && at.find("suite") == nullptr) {
      reader_.fail(at, "probes.quality has no suite",
                   "add suite: prompts/known-answer.json, or write quality: off");
    }
  }

  void read_suite(const YamlNode& at) {
    auto path = reader_.expanded(at, "probes.quality.suite");
    if (!path) {
      return;
    }
    study_.probes.quality_suite = resolve(*path, reader_.where());
    auto text = os::read_file(study_.probes.quality_suite, kMaxSuite);
    if (!text) {
      reader_.fail(at, fmt::format("the suite cannot be read: {}", text.failure().to_string()),
                   "give its path relative to this file");
      return;
    }
    auto items = probes::parse_suite(*text, study_.probes.quality_suite);
    if (!items) {
      reader_.fail(at, items.failure().to_string(), "correct the suite");
      return;
    }
    study_.probes.quality_items = std::move(*items);
  }

  void read_speed(const YamlNode& at) {
    probes::SpeedOptions& speed = study_.probes.speed_options;
    if (switched_off(at, study_.probes.speed)) {
      return;
    }
    reader_.read_map(at, "probes.speed",
                     {{"n_prompt", whole_into(speed.n_prompt, "probes.speed.n_prompt", 1, 1 << 24)},
                      {"n_gen", whole_into(speed.n_gen, "probes.speed.n_gen", 2, 1 << 20)},
                      {"repeats", whole_into(speed.repeats, "probes.speed.repeats", 1, 100)},
                      {"warmups", whole_into(speed.warmups, "probes.speed.warmups", 0, 100)}});
  }

  void read_needle(const YamlNode& at) {
    probes::NeedleOptions& needle = study_.probes.needle_options;
    if (switched_off(at, study_.probes.needle)) {
      return;
    }
    auto lengths = [&](const YamlNode& value) {
      needle.lengths.clear();
      for (const YamlNode* item : reader_.list(value, "probes.needle.lengths")) {
        if (auto length = reader_.whole(*item, "probes.needle.lengths", 32, 1 << 24)) {
          needle.lengths.push_back(static_cast<int>(*length));
        }
      }
      lengths_at_ = &value;
    };
    auto depths = [&](const YamlNode& value) {
      needle.depths.clear();
      for (const YamlNode* item : reader_.list(value, "probes.needle.depths")) {
        if (auto depth = reader_.number(*item, "probes.needle.depths", 0, 1)) {
          needle.depths.push_back(*depth);
        }
      }
    };
    reader_.read_map(at, "probes.needle",
                     {{"lengths", lengths},
                      {"depths", depths},
                      {"per_cell", whole_into(needle.per_cell, "probes.needle.per_cell", 1, 1000)},
                      {"seed", [&](const YamlNode& value) {
                         needle.seed = static_cast<uint64_t>(
                             reader_.whole(value, "probes.needle.seed", 0, INT64_MAX).value_or(1));
                       }}});
  }

  // A needle that does not fit the smallest context would count as a failure of that context.
  void check_lengths() {
    const search::Axis* ctx = study_.space.find("ctx_size");
    const auto& lengths = study_.probes.needle_options.lengths;
    if (ctx == nullptr || lengths_at_ == nullptr || lengths.empty()) {
      return;
    }
    int longest = *std::max_element(lengths.begin(), lengths.end());
    const auto* smallest = std::get_if<int64_t>(&ctx->values.front());
    if (smallest != nullptr && *smallest > 0 && longest + kPromptOverhead > *smallest) {
      reader_.fail(
          *lengths_at_,
          fmt::format("a needle of {} tokens does not fit the smallest ctx_size, {}", longest, *smallest),
          fmt::format("write at most {}", *smallest - kPromptOverhead));
    }
  }

  SpaceReader& reader_;
  const YamlNode& root_;
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

std::variant<Study, SpaceFileErrors> parse_space_file(std::string_view text, const std::string& where) {
  YamlTree tree = parse_yaml(text, where);
  SpaceReader reader(where);
  for (base::Error& error : tree.errors) {
    reader.fail(std::move(error));
  }
  // After a syntax error the rest of the tree is a guess; duplicate keys and anchors leave it whole.
  bool whole = tree.root.kind == YamlNode::Kind::kMap || reader.errors().empty();
  Study study;
  if (whole) {
    study = StudyReader(reader, tree.root).read();
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
