#pragma once
// THE table of tbq-server's flags: names, environment variable, default, help and binding. Parsing, --help, the
// environment and POST /reconfigure (server_options.cc) all read it.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/server_options.h"

namespace engine {

struct FlagContext {  // what a binding may touch
  ServerOptions& options;
  std::vector<std::string>& warnings;
};

struct Flag {
  std::string_view names;  // separated by spaces, as written on a command line
  std::string_view off;    // the negative spellings of a switch
  std::string_view env;
  std::string_view value;  // how --help calls the value; "" for a switch
  std::string_view fallback;
  std::string_view help;
  // Why the value is refused; "" when it was taken. A switch gets "1" or "0".
  std::string (*set)(FlagContext& context, std::string_view value);
};

std::span<const Flag> server_flags();

}  // namespace engine
