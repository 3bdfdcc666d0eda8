#include "src/study/launcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <csignal>
#include <thread>

#include "src/os/files.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "src/study/clock.h"
#include "src/study/interrupt.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLogTailBytes = 16 << 10;

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& letter : out) {
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  return out;
}

// Wordings of llama.cpp, CUDA, glibc and our own engine.
constexpr std::array<std::string_view, 9> kOutOfMemoryWords = {
    "out of memory",     "insufficient memory", "failed to allocate", "unable to allocate", "cannot allocate",
    "cudamalloc failed", "erroroutofmemory",    "bad_alloc",          "not enough memory"};
constexpr std::array<std::string_view, 4> kPortWords = {"couldn't bind", "address already in use",
                                                        "port is in use", "port in use"};

template <size_t N>
bool says(std::string_view text, const std::array<std::string_view, N>& words) {
  std::string folded = lower(text);
  for (std::string_view word : words) {
    if (folded.find(word) != std::string::npos) {
      return true;
    }
  }
  return false;
}

// A lock on memory that was refused ("failed to mlock ...: Cannot allocate memory", "Try increasing
// RLIMIT_MEMLOCK") is a warning; the server goes on without it.
constexpr std::array<std::string_view, 2> kLockWords = {"mlock", "memlock"};

bool says_out_of_memory(std::string_view line) {
  return says(line, kOutOfMemoryWords) && !says(line, kLockWords);
}

// Calls `take` for each line until it returns true; whether one did.
template <class Take>
bool any_line(std::string_view text, Take take) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    if (take(text.substr(at, end - at))) {
      return true;
    }
    at = end + 1;
  }
  return false;
}

// One load, step by step; each step returns true to go on.
class Load {
 public:
  Load(int port, const LaunchOptions& options, Launched& out)
      : port_(port), options_(options), out_(out), start_(Clock::now()) {
    out_.endpoint.base_url = fmt::format("http://127.0.0.1:{}", port);
    out_.endpoint.api_key = options.api_key;
    out_.endpoint.timeout_s = options.request_timeout_s;
    out_.endpoint.stall_timeout_s = options.stall_timeout_s;
    out_.endpoint.cancelled = &interrupted();
  }

  void run() {
    report("loading");
    if (!wait_for_health() || !socket_is_ours() || !model_is_ours()) {
      return;
    }
    out_.t_load_s = seconds_since(start_);
    report("first token");
    if (first_token()) {
      read_back();
    }
  }

 private:
  void report(std::string_view doing) const {
    if (options_.progress) {
      options_.progress(doing);
    }
  }

  bool fail(Status status, std::string reason) {
    out_.failure = Failure{status, std::move(reason)};
    return false;
  }

  // True when the candidate is gone or the user wants to stop; the failure is filled in.
  bool ended(Status status_of_exit) {
    if (interrupted()) {
      fail(Status::kInterrupted, "stopped by the user");
      return true;
    }
    auto exit = out_.child->poll();
    if (!exit) {
      return false;
    }
    out_.exit = exit;
    std::string tail = os::read_tail(options_.log_path, kLogTailBytes);
    out_.failure = classify_exit(*exit, out_.child->memory(), tail, status_of_exit);
    out_.port_taken = out_.failure->status == Status::kLoadCrash && says(tail, kPortWords);
    return true;
  }

  os::HttpRequest get(const char* path, double timeout_s) const {
    os::HttpRequest request;
    request.url = out_.endpoint.base_url + path;
    request.connect_timeout_s = 1;
    request.timeout_s = timeout_s;
    request.max_body_bytes = 8u << 20;
    request.cancelled = &interrupted();
    if (!options_.api_key.empty()) {
      request.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
    }
    return request;
  }

  bool wait_for_health() {
    while (!ended(Status::kLoadCrash)) {
      double elapsed = seconds_since(start_);
      if (elapsed > options_.load_timeout_s) {
        return fail(Status::kLoadTimeout,
                    fmt::format("not ready after {:.0f} s (backend.load_timeout)", options_.load_timeout_s));
      }
      auto health = os::http(get("/health", 2));  // refused and 503 both mean loading
      if (health.ok() && health->status == 200) {
        return true;
      }
      sleep_s(elapsed < 2 ? 0.01 : elapsed < 30 ? 0.1 : 0.5);
    }
    return false;
  }

  bool socket_is_ours() {
    for (int tries = 0; tries < 5; ++tries) {
      if (os::listening_owner(port_, out_.child->pid())) {
        return true;
      }
      if (ended(Status::kLoadCrash)) {
        return false;
      }
      sleep_s(0.05);
    }
    out_.port_taken = true;
    return fail(Status::kLoadCrash,
                fmt::format("port {} is answered by a program that is not the server we started", port_));
  }

  bool model_is_ours() {
    auto answer = os::http(get("/v1/models", 10));
    if (!answer) {
      return !ended(Status::kLoadCrash) &&
             fail(Status::kHang, "/health says ok, " + answer.failure().to_string());
    }
    auto models = base::parse_json(answer->body, "/v1/models");
    if (answer->status != 200 || !models) {
      return fail(Status::kConfigMismatch,
                  fmt::format("GET /v1/models gave status {} and no list of models", answer->status));
    }
    if (!names_model(*models, options_.model, options_.alias)) {
      return fail(Status::kConfigMismatch, fmt::format("the server names another model than {}: {}",
                                                       options_.model, answer->body.substr(0, 160)));
    }
    return true;
  }

  bool first_token() {
    auto start = Clock::now();
    auto generation = probes::complete(out_.endpoint, "The capital of France is", 1, true);
    if (!generation) {
      // The connection closes before the exit can be read.
      if (!interrupted()) {
        out_.child->wait(0.3);
      }
      if (ended(Status::kLoadCrash)) {
        return false;
      }
      os::HttpFault fault = os::http_fault(generation.failure());
      bool late = fault == os::HttpFault::kTimedOut || fault == os::HttpFault::kNoData;
      return late ? fail(Status::kHang, "/health says ok, but a completion of one token never came (" +
                                            generation.failure().what + ")")
                  : fail(Status::kRunCrash,
                         "the first completion failed: " + generation.failure().to_string());
    }
    if (generation->completion_tokens < 1 && generation->content.empty()) {
      return fail(Status::kHang, "/health says ok, but a completion of one token came back empty");
    }
    out_.t_warmup_s = seconds_since(start);
    return true;
  }

  void read_back() {
    auto answer = os::http(get("/props", 10));
    if (answer.ok() && answer->status == 200) {
      if (auto props = base::parse_json(answer->body, "/props")) {
        out_.effective = effective_config(*props);
      }
    }
  }

  int port_;
  const LaunchOptions& options_;
  Launched& out_;
  Clock::time_point start_;
};

}  // namespace

Launched launch_until_ready(const LaunchPlan& plan, int port, const LaunchOptions& options) {
  Launched launched;
  os::LaunchSpec spec;
  spec.argv = plan.argv;
  spec.env = plan.env;
  spec.unset_env = plan.unset_env;
  spec.log_path = options.log_path;
  spec.min_headroom_bytes = options.min_headroom_bytes;
  auto child = os::GuardedChild::launch(spec);
  if (!child) {
    launched.failure = Failure{Status::kLoadCrash, child.failure().to_string()};
    return launched;
  }
  launched.child = std::move(*child);
  Load(port, options, launched).run();
  return launched;
}

std::string telling_line(std::string_view log_tail) {
  constexpr std::array<std::string_view, 7> kWords = {"error",  "fail",  "invalid",  "unable",
                                                      "cannot", "abort", "terminate"};
  std::string first, last, memory;
  any_line(log_tail, [&](std::string_view line) {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
      return false;
    }
    last = line;
    // The first complaint is the cause; what follows are its consequences.
    if (says_out_of_memory(line)) {
      memory = line;
    } else if (first.empty() && says(line, kWords) && !says(line, kLockWords)) {
      first = line;
    }
    return !memory.empty();
  });
  if (!memory.empty()) {
    return memory.substr(0, 240);
  }
  return (first.empty() ? last : first).substr(0, 240);
}

Failure classify_exit(const os::ChildExit& exit, const os::MemoryTrace& memory, std::string_view log_tail,
                      Status otherwise) {
  std::string line = telling_line(log_tail);
  std::string said = line.empty() ? "" : ": " + line;
  if (exit.memory_guard) {
    return {Status::kOom, "stopped by the memory guard: " + os::memory_guard_reason(exit, memory)};
  }
  if (any_line(log_tail, says_out_of_memory)) {
    return {Status::kOom, exit.to_string() + said};
  }
  bool tight = memory.total > 0 && memory.headroom_min < memory.total / 20;
  if (exit.by_signal && exit.code == SIGKILL && tight) {
    return {Status::kOom,
            "killed with memory nearly exhausted, most likely by the kernel's out-of-memory killer"};
  }
  const char* when = otherwise == Status::kLoadCrash ? " before it was ready" : " while it was measured";
  return {otherwise, exit.to_string() + when + said};
}

base::Json effective_config(const base::Json& props) {
  base::Json effective = base::Json::object();
  const base::Json settings = props.is_object() && props.contains("default_generation_settings")
                                  ? props["default_generation_settings"]
                                  : base::Json::object();
  if (int64_t n_ctx = base::json_get<int64_t>(settings, "n_ctx", 0); n_ctx > 0) {
    effective["n_ctx"] = n_ctx;  // of one slot
  }
  for (const char* key : {"total_slots", "model_path", "model_alias", "build_info", "tbq"}) {
    if (props.is_object() && props.contains(key)) {
      effective[key] = props[key];
    }
  }
  return effective;
}

std::string config_mismatch(const search::Space& space, const search::Config& config,
                            const base::Json& effective) {
  auto asked = [&](std::string_view axis) -> std::optional<search::Value> {
    size_t index = space.index_of(axis);
    return index < config.size() ? std::optional(config[index]) : std::nullopt;
  };
  auto number = [](const std::optional<search::Value>& value) {
    const int64_t* whole = value ? std::get_if<int64_t>(&*value) : nullptr;
    return whole == nullptr ? int64_t{0} : *whole;
  };
  int64_t ctx = number(asked("ctx_size"));
  int64_t per_slot = base::json_get<int64_t>(effective, "n_ctx", 0);
  int64_t slots = std::max<int64_t>(1, base::json_get<int64_t>(effective, "total_slots", 1));
  if (ctx > 0 && per_slot > 0 && per_slot * slots < ctx) {
    return fmt::format("asked for ctx_size {}, the server runs with {}", ctx, per_slot * slots);
  }
  if (auto tbq = effective.find("tbq"); effective.is_object() && tbq != effective.end()) {
    for (const char* axis : {"cache_type_k", "cache_type_v"}) {
      std::string runs = base::json_get<std::string>(*tbq, axis, "");
      auto want = asked(axis);
      if (want && !runs.empty() && search::to_string(*want) != runs) {
        return fmt::format("asked for {} {}, the server runs with {}", axis, search::to_string(*want), runs);
      }
    }
  }
  return "";
}

bool names_model(const base::Json& models, const std::string& path, const std::string& alias) {
  std::string name = path.substr(path.rfind('/') + 1);
  auto matches = [&](const base::Json& entry) {
    for (const char* key : {"id", "name", "model"}) {
      std::string value = base::json_get<std::string>(entry, key, "");
      if (!value.empty() && (value == path || value == alias || value.substr(value.rfind('/') + 1) == name ||
                             value + ".gguf" == name)) {
        return true;
      }
    }
    return false;
  };
  for (const char* list : {"data", "models"}) {
    if (models.is_object() && models.contains(list) && models[list].is_array()) {
      for (const base::Json& entry : models[list]) {
        if (matches(entry)) {
          return true;
        }
      }
    }
  }
  return false;
}

}  // namespace study
