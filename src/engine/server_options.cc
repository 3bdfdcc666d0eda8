// Parsing and validation of what server_flags.cc declares.

#include "src/engine/server_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/formats/formats.h"
#include "src/base/suggest.h"
#include "src/engine/server_flags.h"

namespace engine {
namespace {

using Why = std::string;

// llama-server had these. It names their two successors; this server has the second, --spec-ngram-mod-n-max.
constexpr std::string_view kRemoved[] = {"--draft", "--draft-n", "--draft-max", "--draft-min",
                                         "--draft-n-min"};

std::vector<std::string_view> words(std::string_view list) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < list.size();) {
    size_t end = std::min(list.find(' ', at), list.size());
    out.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

struct Found {
  const Flag* flag = nullptr;
  bool off = false;
};

Found find_flag(std::string_view name) {
  for (const Flag& flag : server_flags()) {
    for (bool off : {false, true}) {
      std::vector<std::string_view> names = words(off ? flag.off : flag.names);
      if (std::find(names.begin(), names.end(), name) != names.end()) {
        return {&flag, off};
      }
    }
  }
  return {};
}

std::string did_you_mean(std::string_view name) {
  std::vector<std::string> known;
  for (const Flag& flag : server_flags()) {
    for (std::string_view list : {flag.names, flag.off}) {
      for (std::string_view candidate : words(list)) {
        if (candidate.starts_with("--")) {
          known.emplace_back(candidate);
        }
      }
    }
  }
  const std::string meant = base::closest(name, known);
  return meant.empty() ? "see --help for what there is" : fmt::format("did you mean {}?", meant);
}

std::optional<bool> truth(std::string_view text) {
  for (std::string_view yes : {"1", "on", "true", "enabled"}) {
    if (text == yes) {
      return true;
    }
  }
  for (std::string_view no : {"0", "off", "false", "disabled"}) {
    if (text == no) {
      return false;
    }
  }
  return std::nullopt;
}

base::Result<void> read_environment(const Flag& flag, const Environment& environment,
                                    const std::string* on_command_line, FlagContext& parse) {
  std::string name(flag.env);
  const char* value = environment(name.c_str());
  std::string no_name =
      name.starts_with("LLAMA_ARG_") && !flag.off.empty() ? "LLAMA_ARG_NO_" + name.substr(10) : "";
  if (!no_name.empty() && environment(no_name.c_str())) {  // set to anything: false
    name = no_name;
    value = "0";
  }
  if (!value) {
    return {};
  }
  if (on_command_line) {
    parse.warnings.push_back(
        fmt::format("{} environment variable is set, but will be overwritten by command line argument {}",
                    name, *on_command_line));
    return {};
  }
  std::string_view text = value;
  Why why;
  if (flag.value.empty()) {
    std::optional<bool> on = truth(text);
    why = on ? flag.set(parse, *on ? "1" : "0") : fmt::format("'{}' is neither on nor off", text);
  } else {
    why = flag.set(parse, text);
  }
  if (!why.empty()) {
    return base::error("", fmt::format("error while handling environment variable \"{}\": {}", name, why),
                       "unset it, or see --help");
  }
  return {};
}

}  // namespace

std::string set_server_option(ServerOptions& options, std::string_view flag, std::string_view value,
                              std::vector<std::string>& warnings) {
  const Found found = find_flag(flag);
  AR_CHECK(found.flag != nullptr && !found.flag->value.empty(), "no such flag with a value");
  FlagContext parse{options, warnings};
  return found.flag->set(parse, value);
}

base::Result<void> check_server_options(const ServerOptions& options) {
  if (options.model.empty()) {
    return base::error("", "no model was given", "name a GGUF file with --model FILE");
  }
  const kernels::KvFormat* v = kernels::find_kv_format(options.context.cache_type_v);
  if (options.flash_attn == "off" && v && v->group_values > 0) {
    return base::error("", "quantized V cache requires flash_attn to be enabled",
                       "drop --flash-attn off, or use --cache-type-v f16");
  }
  return {};
}

base::Result<ParsedOptions> parse_server_options(const std::vector<std::string>& args,
                                                 const Environment& environment) {
  ParsedOptions out;
  FlagContext parse{out.options, out.warnings};
  struct Use {
    const Flag* flag;
    std::string name, value;
  };
  std::vector<Use> uses;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i];
    if (name.starts_with("--")) {
      std::replace(name.begin(), name.end(), '_', '-');
    }
    Found found = find_flag(name);
    if (!found.flag) {
      if (std::find(std::begin(kRemoved), std::end(kRemoved), name) != std::end(kRemoved)) {
        return base::error(
            "",
            fmt::format("error while handling argument \"{}\": the argument has been removed. use "
                        "--spec-draft-n-max or --spec-ngram-mod-n-max",
                        name),
            "of those, this server has --spec-ngram-mod-n-max, with --spec-type ngram-mod");
      }
      return base::error("", "invalid argument: " + args[i], did_you_mean(name));
    }
    std::string value = found.off ? "0" : "1";
    if (!found.flag->value.empty()) {
      if (i + 1 == args.size()) {
        return base::error(
            "", fmt::format("error while handling argument \"{}\": expected value for argument", name),
            fmt::format("write {} {}", name, found.flag->value));
      }
      value = args[++i];
    }
    auto same =
        std::find_if(uses.begin(), uses.end(), [&](const Use& use) { return use.flag == found.flag; });
    if (same != uses.end()) {
      out.warnings.push_back(fmt::format("argument {} was given more than once, the last one is used", name));
      uses.erase(same);
    }
    uses.push_back({found.flag, name, value});
  }
  for (const Flag& flag : server_flags()) {
    auto use = std::find_if(uses.begin(), uses.end(), [&](const Use& u) { return u.flag == &flag; });
    if (!flag.env.empty()) {
      if (auto read = read_environment(flag, environment, use == uses.end() ? nullptr : &use->name, parse);
          !read) {
        return read.failure();
      }
    }
  }
  for (const Use& use : uses) {
    if (Why why = use.flag->set(parse, use.value); !why.empty()) {
      return base::error("", fmt::format("error while handling argument \"{}\": {}", use.name, why),
                         fmt::format("{}: {}", use.flag->names, use.flag->help));
    }
  }
  if (!out.options.help && !out.options.version) {
    if (auto valid = check_server_options(out.options); !valid) {
      return valid.failure();
    }
  }
  return out;
}

std::string server_help() {
  std::string out = "tbq-server: serves a GGUF model with llama-server's flags and HTTP API\n\n";
  for (const Flag& flag : server_flags()) {
    std::vector<std::string_view> names = words(flag.names);
    for (std::string_view off : words(flag.off)) {
      names.push_back(off);
    }
    std::string left =
        fmt::format("{}{}{}", fmt::join(names, ", "), flag.value.empty() ? "" : " ", flag.value);
    std::string right(flag.help);
    if (!flag.fallback.empty()) {
      right += fmt::format(" (default: {})", flag.fallback);
    }
    if (!flag.env.empty()) {
      right += fmt::format(" (env: {})", flag.env);
    }
    if (flag.names.ends_with("cache-type-k") || flag.names.ends_with("cache-type-v")) {
      right += fmt::format(": {}", kernels::kv_format_names());
    }
    out += left.size() <= 38 ? fmt::format("{:<40}{}\n", left, right)
                             : fmt::format("{}\n{:<40}{}\n", left, "", right);
  }
  return out;
}

}  // namespace engine
