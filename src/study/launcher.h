#pragma once
// From a launch plan to a server that really answers: our own child on the port, our model, one real token.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "probes/endpoint.h"
#include "src/os/child.h"
#include "src/study/backends.h"
#include "src/study/status.h"

namespace study {

struct LaunchOptions {
  double load_timeout_s = 120, request_timeout_s = 120, stall_timeout_s = 60;
  uint64_t min_headroom_bytes = 0;  // the guard's floor; 0 = no watchdog
  std::string log_path;
  std::string model, alias;  // what /v1/models may name: the path, its file name, the alias
  std::string api_key;
  std::function<void(std::string_view doing)> progress;  // may be empty
};

struct Launched {
  std::unique_ptr<os::GuardedChild> child;  // null only when nothing could be started
  probes::Endpoint endpoint;
  base::Json effective;            // see effective_config(); null unless ready
  std::optional<Failure> failure;  // empty: ready
  std::optional<os::ChildExit> exit;
  bool port_taken = false;  // the failure was the port: worth another try with a new one
  std::optional<double> t_load_s, t_warmup_s;
};

// Returns when ready, failed, timed out or interrupted (Status::kInterrupted). The caller stops the child.
Launched launch_until_ready(const LaunchPlan& plan, int port, const LaunchOptions& options);

// What a dead candidate died of: the exit, the log's last words, the memory seen. Pure.
Failure classify_exit(const os::ChildExit& exit, const os::MemoryTrace& memory, std::string_view log_tail,
                      Status otherwise);
// The line of a log that names the cause, for one-line reasons; "" when none does. Pure.
std::string telling_line(std::string_view log_tail);

// n_ctx, total_slots, model, build_info and the server's own block of an answer of GET /props. Pure.
base::Json effective_config(const base::Json& props);
// Why the effective configuration is not the one asked for; "" when it is. Pure.
std::string config_mismatch(const search::Space& space, const search::Config& config,
                            const base::Json& effective);
// Whether a GET /v1/models answer names the model. Pure.
bool names_model(const base::Json& models, const std::string& path, const std::string& alias);

}  // namespace study
