// tbq-server: parse, bind, load while answering 503, serve until SIGTERM or SIGINT. Exit codes as
// llama-server's: 0 after a signal, 1 for every failure.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "src/base/log.h"
#include "src/base/version.h"
#include "src/engine/server.h"
#include "src/engine/stop_signals.h"

namespace {

constexpr std::chrono::milliseconds kLastWords{300};  // for the answer that says why to leave

int failed(std::string_view what) {
  fmt::print(stderr, "{}{}\n", what.starts_with("error ") ? "" : "error: ", what);
  return 1;
}

int serve(engine::ServerOptions options) {
  engine::StopSignals signals;  // before any thread
  bool any_port = options.port == 0;
  engine::Server server(std::move(options));
  std::atomic<bool> lost = false;
  server.on_lost([&](std::string_view) {
    lost = true;
    signals.wake();
  });
  if (auto bound = server.bind(); !bound) {
    return failed(bound.failure().to_string());
  }
  if (any_port) {  // whatever the verbosity: somebody needs it
    base::log_line(base::LogLevel::kInfo, fmt::format("bound to port {}, loading the model", server.port()));
  }
  base::Result<void> loaded;
  std::thread loader([&] {
    loaded = server.load();
    signals.wake();
  });
  bool load_ended = signals.wait() == 0;
  bool ok = load_ended;
  if (load_ended) {
    loader.join();
    ok = loaded.ok();
    if (ok) {
      base::log_info("model loaded");
      base::log_info("listening on {}", server.url());
      signals.wait();
      if (lost) {
        std::this_thread::sleep_for(kLastWords);
      }
    }
  }
  if (load_ended && !ok) {
    return failed(loaded.failure().to_string());
  }
  signals.exit_within_ms(800);  // whatever happens now; and a second signal ends it at once
  base::log_info("cleaning up before exit...");
  if (!server.stop() || !load_ended) {
    // Loading or one long ubatch is still running. Nothing needs saving, and whoever sent the signal should
    // not wait.
    std::_Exit(lost ? 1 : 0);
  }
  return lost ? failed("a reconfiguration failed, and the former configuration could not be opened again")
              : 0;
}

}  // namespace

int main(int argc, char** argv) {
  auto parsed = engine::parse_server_options({argv + 1, argv + argc},
                                             [](const char* name) { return std::getenv(name); });
  if (!parsed) {
    return failed(parsed.failure().to_string());
  }
  if (parsed->options.help || parsed->options.version) {
    fmt::print("{}", parsed->options.help
                         ? engine::server_help()
                         : fmt::format("version: {} ({})\n", base::version(), base::commit()));
    return 0;
  }
  base::set_log_level(static_cast<base::LogLevel>(std::min(parsed->options.verbosity, 4)));
  for (const std::string& warning : parsed->warnings) {
    base::log_warn("{}", warning);
  }
  return serve(std::move(parsed->options));
}
