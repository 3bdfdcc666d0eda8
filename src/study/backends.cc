#include "src/study/backends.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <optional>

#include "src/study/openai_backend.h"

namespace study {

namespace fs = std::filesystem;

namespace {

enum class Form {
  kValue,       // --flag VALUE
  kOnOff,       // --flag on|off; a bare switch in old builds
  kLayers,      // --flag N, "all" where the build knows the word, 999 where not
  kOmitDefault  // nothing for "disabled", else --flag VALUE
};

struct FlagRow {
  std::string_view axis;
  Form form;
  std::array<std::string_view, 2> spellings;  // newest first
};

// mmap, mlock and n_draft need several flags each: load_mode() and speculation() below.
constexpr std::array<FlagRow, 17> kFlags = {{
    {"n_gpu_layers", Form::kLayers, {"--n-gpu-layers", "--gpu-layers"}},
    {"ctx_size", Form::kValue, {"--ctx-size", ""}},
    {"cache_type_k", Form::kValue, {"--cache-type-k", ""}},
    {"cache_type_v", Form::kValue, {"--cache-type-v", ""}},
    {"kv_rotate", Form::kValue, {"--kv-rotate", ""}},
    {"kv_first_last", Form::kValue, {"--kv-first-last", ""}},
    {"kv_center", Form::kValue, {"--kv-center", ""}},
    {"kv_sink", Form::kValue, {"--kv-sink", ""}},
    {"kv_tail", Form::kValue, {"--kv-tail", ""}},
    {"activations", Form::kValue, {"--activations", ""}},
    {"n_batch", Form::kValue, {"--batch-size", ""}},
    {"n_ubatch", Form::kValue, {"--ubatch-size", ""}},
    {"flash_attn", Form::kOnOff, {"--flash-attn", ""}},
    {"n_threads", Form::kValue, {"--threads", ""}},
    {"n_threads_batch", Form::kValue, {"--threads-batch", ""}},
    {"numa", Form::kOmitDefault, {"--numa", ""}},
    {"parallel", Form::kValue, {"--parallel", ""}},
}};

// What a recent build would otherwise decide for itself; passed only where --help offers it.
struct Pin {
  std::string_view flag, value;  // value "": a switch
  std::string_view unless_axis;
};
constexpr std::array<Pin, 10> kPins = {{
    {"--fit", "off", ""},             // would shrink what the configuration leaves unset
    {"--parallel", "1", "parallel"},  // would split or share the context between slots
    {"--cache-ram", "0", ""},         // would keep old prompts in host memory
    {"--no-cache-idle-slots", "", ""},
    {"--no-cache-prompt", "", ""},
    {"--no-context-shift", "", ""},
    {"--cache-reuse", "0", ""},
    {"--ctx-checkpoints", "0", ""},  // copies of the KV state, of sliding-window models
    {"--warmup", "", ""},
    {"--no-config", "", ""},
}};

const search::Value* value_of(const Study& study, const search::Config& config, std::string_view axis) {
  size_t index = study.space.index_of(axis);
  return index < study.space.axes.size() && index < config.size() ? &config[index] : nullptr;
}

bool truthy(const search::Value& value) {
  std::string text = search::to_string(value);
  return text == "true" || text == "on" || text == "1";
}

class Builder {
 public:
  Builder(const Study& study, const ServerProgram& program, const search::Config& config)
      : study_(study), program_(program), config_(config) {}

  base::Result<void> axis(const search::Axis& axis, const search::Value& value, LaunchPlan& plan) {
    if (auto bound = study_.bindings.find(axis.name); bound != study_.bindings.end()) {
      bind_axis(bound->second, value, plan);
      return {};
    }
    if (axis.name == "model" || axis.name == "binary") {
      return {};  // they stand before the flags
    }
    if (axis.name == "mmap" || axis.name == "mlock") {
      return load_mode(axis.name, value, plan);
    }
    if (axis.name == "n_draft") {
      return speculation(value, plan);
    }
    for (const FlagRow& row : kFlags) {
      if (row.axis == axis.name) {
        return known(row, value, plan);
      }
    }
    return base::error(axis.name, "no flag of the server is known for this axis",
                       "give the axis its own flag: or env: in the space file");
  }

 private:
  bool offers(std::string_view flag) const {
    return program_.flags.flags.empty() || program_.flags.has(flag);
  }

  base::Result<std::string> spelling(const FlagRow& row) const {
    for (std::string_view flag : row.spellings) {
      if (!flag.empty() && offers(flag)) {
        return std::string(flag);
      }
    }
    return base::error(std::string(row.axis),
                       fmt::format("{} has no {} in its --help", program_.path, row.spellings[0]),
                       "remove the axis, or give it the flag: this build uses");
  }

  base::Result<void> known(const FlagRow& row, const search::Value& value, LaunchPlan& plan) const {
    std::string text = search::to_string(value);
    if (row.form == Form::kOmitDefault && (text == "disabled" || text == "none" || text == "off")) {
      return {};
    }
    auto flag = spelling(row);
    if (!flag) {
      return flag.failure();
    }
    const FlagHelp* help = program_.flags.find(*flag);
    if (row.form == Form::kOnOff && help != nullptr && help->hint.empty()) {
      if (truthy(value)) {
        plan.argv.push_back(*flag);
      }
      return {};
    }
    if (row.form == Form::kOnOff) {
      text = text == "auto" ? text : truthy(value) ? "on" : "off";
    }
    if (row.form == Form::kLayers && text == "all" && help != nullptr &&
        help->description.find("all") == std::string::npos) {
      text = "999";
    }
    plan.argv.insert(plan.argv.end(), {*flag, text});
    return {};
  }

  // --load-mode takes both axes at once, so the first of them that comes adds it.
  base::Result<void> load_mode(const std::string& axis, const search::Value& value, LaunchPlan& plan) const {
    if (!program_.flags.flags.empty() && program_.flags.has("--load-mode")) {
      if (std::find(plan.argv.begin(), plan.argv.end(), "--load-mode") != plan.argv.end()) {
        return {};
      }
      const search::Value* mmap = value_of(study_, config_, "mmap");
      const search::Value* mlock = value_of(study_, config_, "mlock");
      bool map = mmap == nullptr || truthy(*mmap);
      bool lock = mlock != nullptr && truthy(*mlock);
      const char* mode = map && lock ? "mmap+mlock" : map ? "mmap" : lock ? "mlock" : "none";
      plan.argv.insert(plan.argv.end(), {"--load-mode", mode});
      return {};
    }
    bool on = truthy(value);
    std::string_view flag = axis == "mlock" ? (on ? "--mlock" : "") : (on ? "" : "--no-mmap");
    if (flag.empty()) {
      return {};  // mapped and not locked is what every build does by itself
    }
    if (!offers(flag)) {
      return base::error(axis, fmt::format("{} has neither --load-mode nor {}", program_.path, flag),
                         "remove the axis from the space");
    }
    plan.argv.emplace_back(flag);
    return {};
  }

  base::Result<void> speculation(const search::Value& value, LaunchPlan& plan) const {
    std::string count = search::to_string(value);
    if (count == "0") {
      return {};
    }
    constexpr std::array<std::string_view, 3> kNgram = {"--spec-type", "--spec-ngram-mod-n-min",
                                                        "--spec-ngram-mod-n-max"};
    if (std::all_of(kNgram.begin(), kNgram.end(), [&](std::string_view flag) { return offers(flag); })) {
      plan.argv.insert(plan.argv.end(), {"--spec-type", "ngram-mod", "--spec-ngram-mod-n-min", count,
                                         "--spec-ngram-mod-n-max", count});
      return {};
    }
    return base::error("n_draft",
                       fmt::format("{} has no n-gram speculation (--spec-type) in its --help", program_.path),
                       "leave only 0 among the axis's values, or remove the axis");
  }

  const Study& study_;
  const ServerProgram& program_;
  const search::Config& config_;
};

void add_pins(const Study& study, const ServerProgram& program, LaunchPlan& plan) {
  for (const Pin& pin : kPins) {
    if (!program.flags.has(pin.flag) ||
        (!pin.unless_axis.empty() && study.space.find(pin.unless_axis) != nullptr)) {
      continue;
    }
    plan.argv.emplace_back(pin.flag);
    if (!pin.value.empty()) {
      plan.argv.emplace_back(pin.value);
    }
  }
}

}  // namespace

bool names_a_secret(std::string_view flag) {
  std::string lower;
  for (char letter : flag) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  const std::string last = lower.substr(lower.find_last_of("-_") + 1);
  for (std::string_view word : {"key", "bearer", "passwd", "passphrase"}) {
    if (last == word) {
      return true;
    }
  }
  if (lower.ends_with("token")) {  // not --max-tokens
    return true;
  }
  for (std::string_view word : {"api-key", "api_key", "apikey", "password", "secret"}) {
    if (lower.find(word) != std::string::npos) {
      return !lower.ends_with("-file");
    }
  }
  return false;
}

namespace {

std::string path_in(const std::string& directory, const std::string& path) {
  const bool stays = directory.empty() || path.empty() || fs::path(path).is_absolute();
  return stays ? path : (fs::path(directory) / path).lexically_normal().string();
}

// llama-server and tbq-server: one command line.
base::Result<void> plan_llama(const Study& study, const ServerProgram& program, const search::Config& config,
                              const LaunchSite& site, LaunchPlan& plan) {
  plan.argv = {path_in(site.directory, program.path),
               "--model",
               path_in(site.directory, model_of(study, config)),
               "--host",
               "127.0.0.1",
               "--port",
               std::to_string(site.port)};
  add_pins(study, program, plan);
  Builder builder(study, program, config);
  for (size_t i = 0; i < study.space.axes.size(); ++i) {
    if (auto added = builder.axis(study.space.axes[i], config[i], plan); !added) {
      return added.failure();
    }
  }
  plan.argv.insert(plan.argv.end(), study.backend.args.begin(), study.backend.args.end());
  for (const auto& [name, value] : study.backend.env) {
    plan.env.emplace_back(name, value);
  }
  if (!site.empty_config_dir.empty() && !study.backend.env.contains("XDG_CONFIG_HOME")) {
    plan.env.emplace_back("XDG_CONFIG_HOME", site.empty_config_dir);
  }
  if (!site.api_key.empty()) {
    plan.env.emplace_back("LLAMA_API_KEY", site.api_key);
  }
  for (const std::string& name : site.inherited_names) {
    bool ours =
        std::any_of(plan.env.begin(), plan.env.end(), [&](const auto& pair) { return pair.first == name; });
    if (!ours && (name.starts_with("LLAMA_ARG_") || name == "LLAMA_API_KEY")) {
      plan.unset_env.push_back(name);
    }
  }
  return {};
}

}  // namespace

void bind_axis(const AxisBinding& binding, const search::Value& value, LaunchPlan& plan) {
  std::string text = search::to_string(value);
  if (!binding.env.empty()) {
    plan.env.emplace_back(binding.env, text);
  }
  if (binding.flag.empty()) {
    return;
  }
  if (const bool* on = std::get_if<bool>(&value)) {
    if (*on) {
      plan.argv.push_back(binding.flag);
    }
  } else {
    plan.argv.insert(plan.argv.end(), {binding.flag, text});
  }
}

std::string_view to_string(BackendKind kind) {
  switch (kind) {
    case BackendKind::kTbqServer:
      return "tbq-server";
    case BackendKind::kLlamaServer:
      return "llama-server";
    case BackendKind::kOpenAi:
      return "openai";
    case BackendKind::kUrl:
      break;
  }
  return "url";
}

const std::string& model_of(const Study& study, const search::Config& config) {
  const search::Value* value = value_of(study, config, "model");
  const auto* path = value == nullptr ? nullptr : std::get_if<std::string>(value);
  return path == nullptr ? study.model : *path;
}

const ServerProgram& program_of(const Study& study, const ServerProgram& program,
                                const search::Config& config) {
  const search::Value* value = value_of(study, config, "binary");
  const std::string name = value == nullptr ? program.name : search::to_string(*value);
  for (const ServerProgram& other : program.others) {
    if (other.name == name) {
      return other;
    }
  }
  return program;
}

base::Result<LaunchPlan> plan_launch(const Study& study, const ServerProgram& default_program,
                                     const search::Config& config, const LaunchSite& site) {
  const ServerProgram& program = program_of(study, default_program, config);
  LaunchPlan plan;
  plan.native = program.native;
  plan.model_names = model_names(study, config);
  if (program.kind == BackendKind::kUrl) {
    plan.foreign = true;
    plan.url = program.path;
    plan.ready_path = ready_path_of(study.backend, program.native);
    return plan;
  }
  plan.port = site.port;
  plan.url = fmt::format("http://127.0.0.1:{}", site.port);
  plan.ready_path = ready_path_of(study.backend, program.native);
  auto planned = program.kind == BackendKind::kOpenAi ? plan_openai(study, program, config, site, plan)
                                                      : plan_llama(study, program, config, site, plan);
  if (!planned) {
    return planned.failure();
  }
  // A paid key of the plugin's is none of a server's business, unless it is given one.
  if (study.search.plugin && !study.search.plugin->key_env.empty() &&
      study.search.plugin->key_env != study.backend.api_key_env &&
      !study.backend.env.contains(study.search.plugin->key_env)) {
    plan.unset_env.push_back(study.search.plugin->key_env);
  }
  return plan;
}

namespace {

// What keeps one axis from reaching one program.
std::optional<base::Error> unsupported(const Study& study, const ServerProgram& program,
                                       const search::Axis& axis, size_t index) {
  if (program.kind == BackendKind::kUrl || program.kind == BackendKind::kOpenAi) {
    return unsupported_by_foreign(study, program, axis);
  }
  for (const search::Value& value : axis.values) {
    search::Config config = study.space.default_config();
    config[index] = value;
    LaunchPlan plan;
    if (auto added = Builder(study, program, config).axis(axis, value, plan); !added) {
      return added.failure();
    }
  }
  return std::nullopt;
}

}  // namespace

std::vector<base::Error> unsupported_axes(const Study& study, const ServerProgram& program) {
  std::vector<base::Error> problems;
  for (size_t i = 0; i < study.space.axes.size(); ++i) {
    auto problem = unsupported(study, program, study.space.axes[i], i);
    for (auto other = program.others.begin(); !problem && other != program.others.end(); ++other) {
      problem = unsupported(study, *other, study.space.axes[i], i);
    }
    if (problem) {
      problems.push_back(std::move(*problem));  // one line an axis
    }
  }
  return problems;
}

std::vector<std::string> served_env(const Study& study, const LaunchPlan& plan) {
  std::vector<std::string> shown;
  for (const auto& variable : plan.env) {
    const std::string& name = variable.first;
    const bool wanted =
        study.backend.env.contains(name) ||
        std::ranges::any_of(study.bindings, [&](const auto& axis) { return axis.second.env == name; });
    if (wanted) {
      shown.push_back(name + "=" + (names_a_secret(name) ? "***" : variable.second));
    }
  }
  return shown;
}

std::vector<std::string> redacted(const std::vector<std::string>& argv) {
  std::vector<std::string> shown = argv;
  for (size_t i = 0; i < shown.size(); ++i) {
    size_t equals = shown[i].find('=');
    if (shown[i].starts_with("-") && names_a_secret(shown[i].substr(0, equals))) {
      if (equals != std::string::npos) {
        shown[i] = shown[i].substr(0, equals + 1) + "***";
      } else if (i + 1 < shown.size()) {
        shown[++i] = "***";
      }
    }
  }
  return shown;
}

}  // namespace study
