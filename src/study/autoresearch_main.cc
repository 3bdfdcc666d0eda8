// autoresearch: a table of subcommands.

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string_view>
#include <system_error>

#include "src/base/version.h"
#include "src/os/child.h"
#include "src/os/service.h"
#include "src/study/commands.h"
#include "src/study/plan.h"

namespace {

using study::Command;
constexpr std::array<Command, 5> kCommands = {{
    {"run", "run a study from a space file", study::run_command},
    {"resume", "go on with an interrupted study", study::resume_command},
    {"plan", "show what a study would do, without launching anything", study::plan_command},
    {"report", "show what a study found", study::report_command},
    {"replay", "play search strategies against a recorded grid", study::replay_command},
}};

// What a command prints may be what a script reads: output that was lost is an error, but for a reader who has gone.
int run(const Command& command, int argc, char** argv) {
  int lost = 0, code = 0;
  try {
    code = command.run(argc, argv);
  } catch (const std::system_error& failed) {
    if (std::ferror(stdout) == 0 && std::ferror(stderr) == 0) {  // none of fmt::print's
      throw;
    }
    lost = failed.code().value();
    code = lost == EPIPE ? study::kExitPreflight : 0;
  }
  std::cout.flush();
  if (lost == 0 && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout)) {
    lost = errno;
  }
  if (lost == 0 || lost == EPIPE || code != 0) {
    return code;
  }
  std::fputs("error: standard output: not all could be written; check the disk behind it\n", stderr);
  return study::kExitPreflight;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view name = argc > 1 ? argv[1] : "";
  if (name == os::kServiceCommand) {
    return os::service_main(argc, argv);
  }
  if (name == os::kGuardCommand) {
    return os::guard_main(argc, argv);
  }
  std::signal(SIGPIPE, SIG_IGN);
  for (const Command& command : kCommands) {
    if (command.name == name) {
      return run(command, argc - 1, argv + 1);
    }
  }
  if (name == "--version") {
    fmt::print("autoresearch {} ({})\n", base::version(), base::commit());
    return 0;
  }
  return study::usage(name, kCommands);
}
