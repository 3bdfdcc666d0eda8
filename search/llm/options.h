#pragma once
// The command line of autoresearch-llm. Keys are never on it: only the name of the variable that holds one.

#include <string>
#include <vector>

#include "src/base/error.h"

namespace llm {

enum class Provider { kAnthropic, kOpenAi };

struct Options {
  Provider provider = Provider::kAnthropic;
  std::string
      url;  // of the API, "" = the provider's own; "server" = the server under tuning, as each request names it
  std::string model;         // "" only with a server that has one
  std::string key_env;       // variable that holds the key; "" with a url: no key is sent
  int max_tokens = 2048;     // of one answer
  double budget_tokens = 0;  // of the whole study, in and out; 0 = no limit
  double budget_usd = 0;     // likewise; needs prices
  double usd_per_mtok_in = 0, usd_per_mtok_out = 0;
  double timeout_s = 60;  // of one exchange, retries included; the request may ask for less
  double least_s = 1;     // with less time than this left nobody is asked
  bool help = false;
};

// Errors name the flag.
base::Result<Options> parse_options(const std::vector<std::string>& args);
std::string usage();

}  // namespace llm
