// What autoresearch says when no subcommand was meant, or none that it knows.

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <vector>

#include "src/base/suggest.h"
#include "src/base/version.h"
#include "src/study/commands.h"

namespace study {

int usage(std::string_view name, std::span<const Command> commands) {
  bool asked = name == "--help" || name == "-h";
  if (!asked && !name.empty()) {
    std::vector<std::string> known;
    for (const Command& command : commands) {
      known.emplace_back(command.name);
    }
    fmt::print(stderr, "error: no command '{}'; {}\n", name, base::did_you_mean(name, known));
    return kExitUsage;
  }
  std::FILE* out = asked ? stdout : stderr;
  fmt::print(out, "autoresearch {}: finds the best configuration of an LLM inference server\n\n",
             base::version());
  fmt::print(out, "usage: autoresearch COMMAND ...   (autoresearch COMMAND --help explains one)\n\n");
  for (const Command& command : commands) {
    fmt::print(out, "  {:<8} {}\n", command.name, command.summary);
  }
  return asked ? 0 : kExitUsage;
}

}  // namespace study
