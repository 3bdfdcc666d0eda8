// The half of backends.h that looks at this machine: finding the binary and reading its --help.

#include <fmt/format.h>

#include <cctype>
#include <sstream>

#include "src/os/child.h"
#include "src/os/files.h"
#include "src/study/backends.h"

namespace study {
namespace {

constexpr double kHelpTimeout_s = 30;  // a CUDA build enumerates its devices first

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

base::Result<ServerProgram> discover_backend(const BackendOptions& options) {
  auto path = find_binary(options);
  if (!path) {
    return path.failure();
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
  auto version = os::run_command({*path, "--version"}, kHelpTimeout_s);
  if (version.ok() && !version->timed_out && !version->exit.by_signal && version->exit.code == 0) {
    program.version = first_line(version->out.empty() ? version->err : version->out);
  }
  return program;
}

}  // namespace study
