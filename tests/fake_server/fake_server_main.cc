// A stand-in for llama-server that does what a scenario says. README.md beside it documents flags and
// scenarios.
#include <fmt/format.h>

#include <cstdlib>

#include "src/os/files.h"
#include "tests/fake_server/server.h"

namespace {

constexpr const char* kHelp =
    "fake-server: speaks enough of llama-server for tests\n"
    "-m,    --model FNAME\n--host HOST\n--port PORT\n-c,    --ctx-size N\n-b,    --batch-size N\n"
    "-ub,   --ubatch-size N\n-t,    --threads N\n-tb,   --threads-batch N\n-ctk,  --cache-type-k TYPE\n"
    "-ctv,  --cache-type-v TYPE\n-fa,   --flash-attn [on|off|auto]\n-ngl,  --gpu-layers, --n-gpu-layers N\n"
    "-np,   --parallel N\n--numa TYPE\n--mmap, --no-mmap\n--mlock\n--fit [on|off]\n--cache-ram N\n"
    "--cache-prompt, --no-cache-prompt\n--spec-type TYPE\n--spec-ngram-mod-n-min N\n--spec-ngram-mod-n-max "
    "N\n"
    "-a,    --alias NAME\n--scenario FILE\n--behaviour NAME\n";

}  // namespace

int main(int argc, char** argv) {
  fake::Flags flags = fake::parse_flags({argv + 1, argv + argc});
  if (flags.contains("help") || flags.contains("h") || flags.contains("version")) {
    fmt::print("{}", flags.contains("version") ? "version: 1 (fake)\n" : kHelp);
    return 0;
  }
  auto setting = [&](const char* flag, const char* variable) -> std::string {
    const char* value = std::getenv(variable);
    return flags.contains(flag) ? flags[flag] : value != nullptr ? value : "";
  };
  std::string where = setting("scenario", "FAKE_SERVER_SCENARIO"), text = where.empty() ? "{}" : where;
  if (text[0] != '{') {
    auto file = os::read_file(where);
    if (!file) {
      fmt::print(stderr, "{}\n", file.failure().to_string());
      return 2;
    }
    text = *file;
  }
  fake::Script script(text, where, setting("behaviour", "FAKE_SERVER_BEHAVIOUR"));
  auto launch = script.launch(flags);
  if (!launch) {
    fmt::print(stderr, "{}\n", launch.failure().to_string());
    return 2;
  }
  return fake::Server(std::move(script), *launch).run();
}
