#pragma once
// From a launch plan to a server that really answers: our own child on the port, our model, one real token.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "probes/endpoint.h"
#include "src/os/child.h"
#include "src/study/backends.h"
#include "src/study/effective.h"
#include "src/study/status.h"

namespace study {

struct LaunchOptions {
  double load_timeout_s = 120, request_timeout_s = 120, stall_timeout_s = 60;
  double load_stall_s = 120;        // see BackendOptions
  uint64_t min_headroom_bytes = 0;  // the guard's floor; 0 = no watchdog
  std::string log_path;
  std::string api_key;
  std::function<void(std::string_view doing)> progress;  // may be empty
};
// What the study says of them: time-outs, floor, key. log_path and progress are the caller's.
LaunchOptions launch_options(const Study& study);

struct Launched {
  std::unique_ptr<os::GuardedChild> child;  // null when nothing could be started, and of a foreign server
  bool foreign =
      false;  // was running before us and stays; it still has its own configuration, not the plan's
  probes::Endpoint endpoint;
  base::Json effective;  // see effective_config(); null unless ready, and where the server does not tell
  std::optional<Failure> failure;  // empty: ready
  std::optional<os::ChildExit> exit;
  bool port_taken = false;  // the failure was the port: worth another try with a new one
  std::optional<double> t_load_s, t_warmup_s;
};

// Returns when ready, failed, stalled, timed out or interrupted (Status::kInterrupted). The caller stops the child.
Launched launch_until_ready(const LaunchPlan& plan, const LaunchOptions& options);

// What a dead candidate died of: the exit, the log's last words, the memory seen. Pure.
Failure classify_exit(const os::ChildExit& exit, const os::MemoryTrace& memory, std::string_view log_tail,
                      Status otherwise);
// The line of a log that names the cause, for one-line reasons; "" when none does. Pure.
std::string telling_line(std::string_view log_tail);

}  // namespace study
