// autoresearch-llm: the plugin that asks a language model. One request per line in, one answer per line out.

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "search/llm/proposer.h"

int main(int argc, char** argv) {
  auto options = llm::parse_options({argv + 1, argv + argc});
  if (!options) {
    fmt::print(stderr, "error: {}\n", options.failure().to_string());
    return 2;
  }
  if (options->help) {
    fmt::print("{}", llm::usage());
    return 0;
  }
  const char* key = options->key_env.empty() ? nullptr : std::getenv(options->key_env.c_str());
  llm::Proposer proposer(*options, key == nullptr ? "" : key);
  for (std::string line; std::getline(std::cin, line);) {
    fmt::print("{}\n", proposer.answer(line));
    if (std::fflush(stdout) != 0) {
      return 1;
    }
  }
  return 0;
}
