#include "src/study/instance.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "src/study/clock.h"
#include "src/study/in_place.h"
#include "src/study/interrupt.h"
#include "src/study/memory_wait.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kHealth_s = 5;

os::HttpRequest request_to(const probes::Endpoint& endpoint, const char* method, const char* path,
                           double timeout_s) {
  os::HttpRequest request;
  request.method = method;
  request.url = endpoint.base_url + path;
  request.connect_timeout_s = 2;
  request.timeout_s = timeout_s;
  request.max_body_bytes = 8u << 20;
  request.cancelled = &interrupted();
  if (!endpoint.api_key.empty()) {
    request.headers.emplace_back("Authorization", "Bearer " + endpoint.api_key);
  }
  return request;
}

// The server's own words, of an error in llama-server's form.
std::string message_of(const os::HttpResponse& answer) {
  auto body = base::parse_json(answer.body, "/reconfigure");
  std::string message;
  if (body && body->is_object() && body->contains("error")) {
    message = base::json_get<std::string>((*body)["error"], "message", "");
  }
  return fmt::format("HTTP {}: {}", answer.status, (message.empty() ? answer.body : message).substr(0, 240));
}

}  // namespace

base::Result<void> set_back(const probes::Endpoint& endpoint, const base::Json& axes, double timeout_s) {
  os::HttpRequest post = request_to(endpoint, "POST", "/reconfigure", timeout_s);
  post.cancelled = nullptr;
  post.body = base::dump_line(axes);
  auto answer = os::http(post);
  if (!answer) {
    return answer.failure();
  }
  if (answer->status != 200) {
    return base::error("/reconfigure", message_of(*answer));
  }
  return {};
}

Instance::Instance(const Study& study, Launched server, search::Config config, std::string log_path)
    : study_(study),
      server_(std::move(server)),
      config_(std::move(config)),
      offered_(offered_axes(server_.effective)),
      log_path_(std::move(log_path)),
      load_s_(server_.t_load_s.value_or(0)) {}

bool Instance::alive() {
  return server_.child == nullptr || !server_.child->poll();
}

Instance::Change Instance::reconfigure(const search::Config& to) {
  Change change;
  auto body = reconfigure_body(study_, &config_, to, offered_);
  if (!body) {
    return change;
  }
  auto start = Clock::now();
  if (!alive()) {
    change.result = Change::kGone;
    change.why = "it has ended";
    return change;
  }
  auto health = os::http(request_to(server_.endpoint, "GET", "/health", kHealth_s));
  if (!health || health->status != 200) {
    change.result = interrupted() ? Change::kInterrupted : Change::kGone;
    change.why = health ? "/health: " + message_of(*health) : health.failure().to_string();
    return change;
  }
  change.served = true;
  if (server_.child != nullptr && !first_trace_taken_) {
    first_trace_ = server_.child->memory();
    first_trace_taken_ = true;
  }
  // It takes what a load would at the very most.
  double limit_s = std::min(study_.backend.load_timeout_s, study_.probes.request_timeout_s);
  os::HttpRequest post = request_to(server_.endpoint, "POST", "/reconfigure", limit_s);
  post.body = base::dump_line(*body);
  auto answer = os::http(post);
  if (!answer) {
    change.result = interrupted() ? Change::kInterrupted : Change::kGone;
    change.why = answer.failure().to_string();
    return change;
  }
  if (answer->status != 200) {
    change.result = answer->status == 409   ? Change::kFailed
                    : answer->status >= 500 ? Change::kGone
                                            : Change::kRefused;
    change.why = message_of(*answer);
    return change;
  }
  if (server_.child != nullptr) {
    // Only now: a sample taken while the former cache was still there would count for this trial.
    server_.child->restart_trace();
  }
  server_.t_load_s.reset();
  change.reconfigure_s = seconds_since(start);
  if (!real_token(change) || !read_back(to, change)) {
    return change;
  }
  config_ = to;
  server_.t_warmup_s = change.warmup_s;
  change.result = Change::kDone;
  return change;
}

bool Instance::real_token(Change& change) {
  auto start = Clock::now();
  auto generation = probes::complete(server_.endpoint, "The capital of France is", 1, true);
  if (!generation || (generation->completion_tokens < 1 && generation->content.empty())) {
    change.result = interrupted() ? Change::kInterrupted : Change::kGone;
    change.why = generation ? "a completion of one token came back empty" : generation.failure().to_string();
    return false;
  }
  change.warmup_s = seconds_since(start);
  return true;
}

bool Instance::look_again() {
  auto answer = os::http(request_to(server_.endpoint, "GET", "/props", 10));
  auto props = answer.ok() && answer->status == 200 ? base::parse_json(answer->body, "/props")
                                                    : base::Result<base::Json>(base::error("/props", ""));
  if (!props) {
    return false;
  }
  server_.effective = effective_config(*props);
  offered_ = offered_axes(server_.effective);
  return true;
}

bool Instance::read_back(const search::Config& to, Change& change) {
  if (!look_again()) {
    change.result = interrupted() ? Change::kInterrupted : Change::kFailed;
    change.why = "GET /props says no more what it runs with";
    return false;
  }
  change.why = config_mismatch(study_.space, to, server_.effective);
  change.result = Change::kFailed;
  return change.why.empty();
}

Instance::Stopped Instance::stop() {
  Stopped stopped;
  if (server_.child == nullptr) {
    stopped.available_after = os::read_meminfo().available;
    return stopped;
  }
  stopped.exit = server_.child->stop(study_.backend.stop_grace_s);
  stopped.trace = server_.child->memory();
  server_.child.reset();
  MemoryWait wait;
  wait.held = memory_held(stopped.trace);
  wait.available_before = stopped.trace.available_before;
  if (first_trace_taken_) {
    wait.held = std::max(wait.held, memory_held(first_trace_));
    wait.available_before = first_trace_.available_before;
  }
  MemoryWaited waited = wait_for_memory(wait, [] { return os::read_meminfo().available; });
  stopped.available_after = waited.available;
  if (!waited.back && !interrupted()) {
    // A little is anybody's; much of the machine's is what the next launch may fail for.
    uint64_t missing = wait.available_before - std::min(wait.available_before, waited.available);
    base::log(missing > stopped.trace.total / 20 ? base::LogLevel::kWarn : base::LogLevel::kInfo,
              "{} available {:.1f} s after the server ended, {} before it was launched; going on",
              base::format_bytes(waited.available), waited.waited_s,
              base::format_bytes(wait.available_before));
  }
  return stopped;
}

}  // namespace study
