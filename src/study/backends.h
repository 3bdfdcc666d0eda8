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
#include "src/base/json.h"
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

// The server program as found on this machine; of kUrl the server that answers there.
struct ServerProgram {
  BackendKind kind = BackendKind::kTbqServer;
  std::string path;     // kUrl: the address
  std::string version;  // first line of --version, or build_info; "" when it has none
  FlagSet flags;        // empty when --help says nothing we understand: then the newest spellings are used
  bool native = true;   // has llama-server's own routes beside /v1: /health, /props, /tokenize, /completion
  std::string served_model;                 // kUrl, not native: the name that its requests must give
  std::vector<std::string> reconfigurable;  // kUrl: the axes that its /reconfigure takes
  base::Json
      settings;  // kUrl: effective_config() as it runs now; without /props {model}; null for the others
  std::string config_file;  // one that it reads unasked, with no option against it; "" = none. To be shown
  std::string name;         // the value of the axis `binary` that this program is; "" without such an axis
  std::vector<ServerProgram> others;  // of the axis's other values
};

// Finds the binary (as given, beside autoresearch, in PATH) and asks it for --help and --version; asks a server
// that is already running for /props and /v1/models. `others` stays empty.
base::Result<ServerProgram> discover_backend(const BackendOptions& options);
// The same for each value of the axis `binary` where there is one, the default's with the rest as its `others`.
base::Result<ServerProgram> discover_backends(const Study& study);

// The axes that an answer of GET /props offers to change while the server runs. Pure.
std::vector<std::string> reconfigurable_axes(const base::Json& props);

// A launch, or (foreign) how to reach what is running already.
struct LaunchPlan {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::string> unset_env;
  int port = 0;                        // of our own child
  std::string url;                     // where it answers: "http://127.0.0.1:4242"
  bool foreign = false;                // argv is empty: never launched, guarded or stopped by us
  bool native = true;                  // ServerProgram::native
  std::string ready_path = "/health";  // 200 = loaded
  std::vector<std::string>
      model_names;  // what /v1/models may call the model: path, alias; empty: not checked
};

// What a launch needs beside study, program and configuration.
struct LaunchSite {
  int port = 0;
  std::string
      directory;  // absolute: what relative paths of program and model mean, so that argv serves anywhere
  std::string empty_config_dir;  // XDG_CONFIG_HOME of the candidate, so that it reads no config file
  std::string api_key;           // passed in the environment, never in argv
  std::vector<std::string> inherited_names;  // names of our environment's variables; LLAMA_ARG_* are unset
};

// The Error's where is the axis.
base::Result<LaunchPlan> plan_launch(const Study& study, const ServerProgram& program,
                                     const search::Config& config, const LaunchSite& site);

// The model file and the program of a configuration, where `model` and `binary` are axes; else the study's.
const std::string& model_of(const Study& study, const search::Config& config);
const ServerProgram& program_of(const Study& study, const ServerProgram& program,
                                const search::Config& config);
// How an axis with a flag: or env: of its own reaches the server: a boolean with a flag is a switch.
void bind_axis(const AxisBinding& binding, const search::Value& value, LaunchPlan& plan);
// "tbq-server", "llama-server", "openai", "url"
std::string_view to_string(BackendKind kind);

// Every axis value the program cannot be given, all at once; empty when all can.
std::vector<base::Error> unsupported_axes(const Study& study, const ServerProgram& program);

// argv for journals and reports: values that look like secrets replaced by "***".
// "NAME=VALUE" of what the space has put into the environment, secrets as "***"; what the driver adds is left out.
std::vector<std::string> served_env(const Study& study, const LaunchPlan& plan);
std::vector<std::string> redacted(const std::vector<std::string>& argv);
// True for the name of a flag or variable whose value is a secret ("--api-key", "HF_TOKEN").
bool names_a_secret(std::string_view name);

}  // namespace study
