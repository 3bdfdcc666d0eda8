// autoresearch: a table of subcommands.

#include <fmt/format.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/version.h"
#include "src/os/child.h"
#include "src/study/commands.h"
#include "src/study/plan.h"
#include "src/study/suggest.h"

namespace {

struct Command {
  std::string_view name, summary;
  int (*run)(int argc, char** argv);
};
constexpr std::array<Command, 4> kCommands = {{
    {"run", "run a study from a space file", study::run_command},
    {"resume", "go on with an interrupted study", study::resume_command},
    {"plan", "show what a study would do, without launching anything", study::plan_command},
    {"report", "show what a study found", study::report_command},
}};

void print_usage(std::FILE* out) {
  fmt::print(out, "autoresearch {}: finds the best configuration of an LLM inference server\n\n",
             base::version());
  fmt::print(out, "usage: autoresearch COMMAND ...   (autoresearch COMMAND --help explains one)\n\n");
  for (const Command& command : kCommands) {
    fmt::print(out, "  {:<8} {}\n", command.name, command.summary);
  }
}

int unknown_command(std::string_view name) {
  std::vector<std::string> known;
  for (const Command& command : kCommands) {
    known.emplace_back(command.name);
  }
  fmt::print(stderr, "error: no command '{}'; {}\n", name, study::did_you_mean(name, known));
  return study::kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view name = argc > 1 ? argv[1] : "";
  if (name == os::kGuardCommand) {
    return os::guard_main(argc, argv);
  }
  std::signal(SIGPIPE, SIG_IGN);
  for (const Command& command : kCommands) {
    if (command.name == name) {
      return command.run(argc - 1, argv + 1);
    }
  }
  if (name == "--version") {
    fmt::print("autoresearch {} ({})\n", base::version(), base::commit());
    return 0;
  }
  if (name.empty() || name == "--help" || name == "-h") {
    print_usage(name.empty() ? stderr : stdout);
    return name.empty() ? study::kExitUsage : 0;
  }
  return unknown_command(name);
}
