#pragma once
// The subcommands of autoresearch, one file each. Each takes its own arguments (argv[0] is the subcommand)
// and returns the exit code; errors are one line on stderr.

#include <span>
#include <string_view>

#include "src/base/error.h"

namespace study {

struct Command {
  std::string_view name, summary;
  int (*run)(int argc, char** argv);
};
// For --help, no command and an unknown one; the exit code.
int usage(std::string_view name, std::span<const Command> commands);

enum ExitCode : int {
  kExitConfirmed = 0,
  kExitUsage = 2,
  kExitPreflight = 3,
  kExitNoFeasible = 4,
  kExitJournal = 5,
  kExitMemory = 6,
  kExitUnconfirmed = 10,  // done; the default stands, or the winner is unconfirmed
  kExitBudget = 11,
};

int run_command(int argc, char** argv);
int resume_command(int argc, char** argv);
int report_command(int argc, char** argv);
int replay_command(int argc, char** argv);

// "error: where: what; next" on stderr; returns `code`.
int fail(const base::Error& error, ExitCode code);

}  // namespace study
