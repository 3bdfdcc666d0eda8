#pragma once
// Axis -> flag, one table for the servers that speak llama-server's command line, and the discovery that
// picks the spelling a binary really has: the flags drift between builds and forks. Everything but
// discover_backend() is pure.

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/study/study.h"

namespace study {

// The flags a --help text offers: "--cache-ram" -> the hint behind it ("N", "[on|off]", "" for a switch) and
// the description.
struct FlagHelp {
  std::string hint, description;
};
struct FlagSet {
  std::map<std::string, FlagHelp, std::less<>> flags;
  bool has(std::string_view flag) const { return flags.find(flag) != flags.end(); }
  const FlagHelp* find(std::string_view flag) const;
};
FlagSet parse_help(std::string_view help_text);

// The server program as found on this machine.
struct ServerProgram {
  BackendKind kind = BackendKind::kTbqServer;
  std::string path;
  std::string version;  // first line of --version; "" when it has none
  FlagSet flags;        // empty when --help says nothing we understand: then the newest spellings are used
};

// Finds the binary (as given, beside autoresearch, in PATH) and asks it for --help and --version.
base::Result<ServerProgram> discover_backend(const BackendOptions& options);

struct LaunchPlan {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::string> unset_env;
};

// What a launch needs beside study, program and configuration.
struct LaunchSite {
  int port = 0;
  std::string empty_config_dir;  // XDG_CONFIG_HOME of the candidate, so that it reads no config file
  std::string api_key;           // passed in the environment, never in argv
  std::vector<std::string> inherited_names;  // names of our environment's variables; LLAMA_ARG_* are unset
};

// The Error's where is the axis.
base::Result<LaunchPlan> plan_launch(const Study& study, const ServerProgram& program,
                                     const search::Config& config, const LaunchSite& site);

// Every axis value the program cannot be given, all at once; empty when all can.
std::vector<base::Error> unsupported_axes(const Study& study, const ServerProgram& program);

// argv for journals and reports: values that look like secrets replaced by "***".
std::vector<std::string> redacted(const std::vector<std::string>& argv);
// True for the name of a flag or variable whose value is a secret ("--api-key", "HF_TOKEN").
bool names_a_secret(std::string_view name);

}  // namespace study
