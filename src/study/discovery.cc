// The half of backends.h that looks at this machine: finding the binary and reading its --help.

#include <fmt/format.h>

#include <cctype>
#include <cstdlib>
#include <sstream>

#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/http_client.h"
#include "src/study/backends.h"
#include "src/study/effective.h"

namespace study {
namespace {

constexpr double kHelpTimeout_s = 30;  // a CUDA build enumerates its devices first
constexpr double kSlowVersion_s = 90;  // vllm imports torch before it tells
constexpr const char* kSystemConfig = "/etc/llama.cpp/config.ini";

// "-c,    --ctx-size N      size of ..." -> the flags of the line, then hint and description by the gap of
// two spaces that every build puts between them.
void parse_help_line(std::string_view line, FlagSet& set, std::vector<std::string>& current) {
  std::vector<std::string> flags;
  size_t at = 0;
  while (at < line.size() && line[at] == '-') {
    size_t end = line.find_first_of(", \t", at);
    end = end == std::string_view::npos ? line.size() : end;
    flags.emplace_back(line.substr(at, end - at));
    bool comma = end < line.size() && line[end] == ',';
    at = end;
    if (comma) {
      at = line.find_first_not_of(", \t", end);
      at = at == std::string_view::npos ? line.size() : at;
    } else {
      break;
    }
  }
  std::string_view rest = line.substr(at);
  std::string hint;
  if (rest.starts_with(" ") && !rest.starts_with("  ")) {
    size_t gap = rest.find("  ");
    hint = rest.substr(1, gap == std::string_view::npos ? gap : gap - 1);
    rest = gap == std::string_view::npos ? "" : rest.substr(gap);
  }
  size_t text = rest.find_first_not_of(" \t");
  std::string description(text == std::string_view::npos ? "" : rest.substr(text));
  for (const std::string& flag : flags) {
    set.flags[flag] = {hint, description};
  }
  current = flags;
}

std::string first_line(const std::string& text) {
  std::string line = text.substr(0, text.find('\n'));
  while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) {
    line.pop_back();
  }
  return line;
}

base::Result<std::string> find_binary(const BackendOptions& options) {
  std::string name = options.binary;
  if (name.empty() && options.kind == BackendKind::kOpenAi) {
    return base::error("backend.binary", "an openai backend has no program to start",
                       "write binary: vllm, or whatever serves /v1");
  }
  if (name.empty()) {
    name = options.kind == BackendKind::kTbqServer ? "tbq-server" : "llama-server";
  }
  if (name.find('/') != std::string::npos) {
    if (os::file_exists(name)) {
      return name;
    }
    return base::error(name, "no such program", "set backend.binary to the server's path");
  }
  std::string beside = os::program_directory() + "/" + name;
  if (os::file_exists(beside)) {
    return beside;
  }
  std::string found = os::find_in_path(name);
  if (!found.empty()) {
    return found;
  }
  return base::error(name, "not found beside autoresearch nor in PATH",
                     "set backend.binary to the server's path");
}

std::string version_of(const std::string& path, double timeout_s) {
  auto version = os::run_command({path, "--version"}, timeout_s);
  bool ended = version.ok() && !version->timed_out && !version->exit.by_signal && version->exit.code == 0;
  return ended ? first_line(version->out.empty() ? version->err : version->out) : "";
}

}  // namespace

const FlagHelp* FlagSet::find(std::string_view flag) const {
  auto found = flags.find(flag);
  return found == flags.end() ? nullptr : &found->second;
}

FlagSet parse_help(std::string_view help_text) {
  FlagSet set;
  std::vector<std::string> current;  // flags of the entry that continuation lines belong to
  std::istringstream lines{std::string(help_text)};
  for (std::string line; std::getline(lines, line);) {
    size_t indent = line.find_first_not_of(" \t");
    if (indent == std::string::npos) {
      continue;
    }
    std::string_view body = std::string_view(line).substr(indent);
    bool entry = indent < 12 && body.size() > 1 && body[0] == '-' &&
                 (std::isalpha(static_cast<unsigned char>(body[1])) != 0 || body.starts_with("--")) &&
                 !body.starts_with("-----") && !body.starts_with("----- ");
    if (entry) {
      parse_help_line(body, set, current);
    } else {
      for (const std::string& flag : current) {
        set.flags[flag].description += fmt::format(" {}", body);
      }
    }
  }
  return set;
}

namespace {

// Whatever serves /v1: its --help is its own, and need not name what we would look for.
base::Result<ServerProgram> discover_openai(const BackendOptions& options, const std::string& path) {
  ServerProgram program;
  program.kind = options.kind;
  program.path = path;
  program.native = false;
  program.version = version_of(path, kSlowVersion_s);
  return program;
}

os::HttpRequest get(const BackendOptions& options, const char* route) {
  os::HttpRequest request;
  request.url = options.url + route;
  request.timeout_s = 10;
  request.max_body_bytes = 8u << 20;
  const char* key = options.api_key_env.empty() ? nullptr : std::getenv(options.api_key_env.c_str());
  if (key != nullptr) {
    request.headers.emplace_back("Authorization", std::string("Bearer ") + key);
  }
  return request;
}

base::Result<ServerProgram> discover_running(const BackendOptions& options) {
  auto models = os::http(get(options, "/v1/models"));
  if (!models) {
    return base::error(options.url, "no server answers there: " + models.failure().what,
                       "start it first, or correct backend.url");
  }
  if (models->status != 200) {
    return base::error(options.url, fmt::format("GET /v1/models gave HTTP {}", models->status),
                       models->status == 401   ? "name the variable of its key in backend.api_key_env"
                       : models->status == 503 ? "wait until it has loaded"
                                               : "is this the address of an OpenAI-compatible server?");
  }
  ServerProgram program;
  program.kind = options.kind;
  program.path = options.url;
  program.native = false;
  if (auto list = base::parse_json(models->body, "/v1/models")) {
    program.served_model = named_model(*list, {}).value_or("");
    program.settings = {{"model", program.served_model}};
  }
  auto answer = os::http(get(options, "/props"));
  // Servers that want a key list their models without one: what follows is not "no /props".
  if (answer && answer->status == 401) {
    return base::error(options.url,
                       options.api_key_env.empty()
                           ? "GET /props gave HTTP 401: the server wants a key"
                           : "GET /props gave HTTP 401: the server wants another key than it got",
                       options.api_key_env.empty()
                           ? std::string("name the variable of its key in backend.api_key_env")
                           : fmt::format("put the server's key into the variable {}", options.api_key_env));
  }
  auto props = answer && answer->status == 200 ? base::parse_json(answer->body, "/props")
                                               : base::Result<base::Json>(base::error("", "no /props"));
  if (props && props->is_object() && props->contains("default_generation_settings")) {
    program.native = true;
    program.served_model.clear();
    program.settings = effective_config(*props);
    program.version = base::json_get<std::string>(*props, "build_info", "");
    program.reconfigurable = reconfigurable_axes(*props);
  }
  return program;
}

}  // namespace

std::vector<std::string> reconfigurable_axes(const base::Json& props) {
  std::vector<std::string> axes;
  auto block = props.is_object() ? props.find("tbq") : props.end();
  if (block == props.end() || !block->is_object() || !block->contains("reconfigure") ||
      !(*block)["reconfigure"].is_array()) {
    return axes;
  }
  for (const base::Json& name : (*block)["reconfigure"]) {
    if (name.is_string()) {
      axes.push_back(name.get<std::string>());
    }
  }
  return axes;
}

base::Result<ServerProgram> discover_backend(const BackendOptions& options) {
  if (options.kind == BackendKind::kUrl) {
    return discover_running(options);
  }
  auto path = find_binary(options);
  if (!path) {
    return path.failure();
  }
  if (options.kind == BackendKind::kOpenAi) {
    return discover_openai(options, *path);
  }
  auto help = os::run_command({*path, "--help"}, kHelpTimeout_s);
  if (!help) {
    return help.failure();
  }
  if (help->timed_out) {
    return base::error(*path, fmt::format("--help did not end within {:.0f} s", kHelpTimeout_s),
                       "check that backend.binary is a llama-server or tbq-server");
  }
  if (help->exit.by_signal || help->exit.code == 126 || help->exit.code == 127) {
    return base::error(*path,
                       fmt::format("--help failed ({}): {}", help->exit.to_string(), first_line(help->err)),
                       "run it by hand; a shared library or CPU feature may be missing");
  }
  ServerProgram program;
  program.kind = options.kind;
  program.path = *path;
  program.flags = parse_help(help->out.empty() ? help->err : help->out);
  if (!program.flags.has("--model") || !program.flags.has("--port")) {
    program.flags = {};  // not a list of flags we understand
  }
  program.version = version_of(*path, kHelpTimeout_s);
  // The user's own file is out of the way by XDG_CONFIG_HOME; this one only root could move.
  if (options.kind == BackendKind::kLlamaServer && !program.flags.has("--no-config") &&
      os::file_exists(kSystemConfig)) {
    program.config_file = kSystemConfig;
  }
  return program;
}

base::Result<ServerProgram> discover_backends(const Study& study) {
  const search::Axis* axis = study.space.find("binary");
  if (axis == nullptr || study.backend.kind == BackendKind::kUrl) {
    return discover_backend(study.backend);
  }
  std::vector<ServerProgram> found;
  for (const search::Value& value : axis->values) {
    BackendOptions options = study.backend;
    options.binary = search::to_string(value);
    auto program = discover_backend(options);
    if (!program) {
      return program.failure();
    }
    program->name = options.binary;
    found.push_back(std::move(*program));
  }
  ServerProgram program = std::move(found[axis->default_index]);
  found.erase(found.begin() + static_cast<std::ptrdiff_t>(axis->default_index));
  program.others = std::move(found);
  return program;
}

}  // namespace study
