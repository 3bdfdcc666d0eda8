#include "src/study/launcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "src/os/activity.h"
#include "src/os/files.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "src/study/clock.h"
#include "src/study/interrupt.h"
#include "src/study/load_watch.h"

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

// What a server goes on without is a warning: a lock on memory that was refused ("failed to mlock ...: Cannot
// allocate memory", "Try increasing RLIMIT_MEMLOCK"), and buffers that the device could read faster ("failed to
// allocate 96.00 MiB of pinned memory: out of memory").
constexpr std::array<std::string_view, 3> kBenignWords = {"mlock", "memlock", "pinned memory"};

bool says_out_of_memory(std::string_view line) {
  return says(line, kOutOfMemoryWords) && !says(line, kBenignWords);
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

// The log from where it was last read; an emptied log (the guard does that to endless ones) starts over.
class LogReader {
 public:
  explicit LogReader(std::string path) : path_(std::move(path)) {}

  // Telling bytes so far. At most 256 KiB a call are looked at; a log that grows faster is surely growing.
  uint64_t read(std::string_view ready_path) {
    std::ifstream file(path_, std::ios::binary | std::ios::ate);
    auto size = static_cast<int64_t>(file.tellg());
    if (!file || size == at_) {
      return telling_;
    }
    at_ = size < at_ ? 0 : at_;
    int64_t from = std::max(at_, size - (int64_t{256} << 10));
    std::string text(static_cast<size_t>(size - from), '\0');
    file.seekg(from);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
    telling_ += telling_bytes(text, ready_path);
    at_ = size;
    return telling_;
  }

 private:
  std::string path_;
  int64_t at_ = 0;
  uint64_t telling_ = 0;
};

// One load, step by step; each step returns true to go on.
class Load {
 public:
  // `start`: before the process was made, which is part of a load.
  Load(const LaunchPlan& plan, const LaunchOptions& options, Clock::time_point start, Launched& out)
      : plan_(plan), options_(options), out_(out), start_(start), log_(options.log_path) {
    out_.endpoint.base_url = plan.url;
    out_.endpoint.api_key = options.api_key;
    out_.endpoint.timeout_s = options.request_timeout_s;
    out_.endpoint.stall_timeout_s = options.stall_timeout_s;
    out_.endpoint.cancelled = &interrupted();
    out_.endpoint.native = plan.native;
    owned_ = out_.child == nullptr;  // a foreign server is whatever answers at its address
  }

  void run() {
    report("loading");
    if (!wait_until_loaded() || !socket_is_ours() || !model_is_ours()) {
      return;
    }
    if (!plan_.foreign) {
      out_.t_load_s = seconds_since(start_);
    }
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
    auto exit = out_.child == nullptr ? std::nullopt : out_.child->poll();
    if (!exit) {
      return false;
    }
    out_.exit = exit;
    std::string tail = os::read_tail(options_.log_path, kLogTailBytes);
    out_.failure = classify_exit(*exit, out_.child->memory(), tail, status_of_exit);
    out_.port_taken = out_.failure->status == Status::kLoadCrash && says(tail, kPortWords);
    return true;
  }

  // A child's end cuts the wait short.
  void wait(double seconds) {
    if (out_.child == nullptr) {
      sleep_s(seconds);
    } else {
      out_.child->wait(seconds);
    }
  }

  os::HttpRequest get(const std::string& path, double timeout_s) const {
    os::HttpRequest request;
    request.url = out_.endpoint.base_url + path;
    request.connect_timeout_s = 1;
    request.timeout_s = timeout_s;
    request.max_body_bytes = 8u << 20;
    request.cancelled = &interrupted();
    if (owned_ && !options_.api_key.empty()) {
      request.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
    }
    return request;
  }

  bool wait_until_loaded() {
    std::string answer;
    while (!ended(Status::kLoadCrash)) {
      double elapsed = seconds_since(start_);
      if (elapsed > options_.load_timeout_s) {
        return fail(Status::kLoadTimeout,
                    fmt::format("not ready after {:.0f} s (backend.load_timeout); {} last gave {}",
                                options_.load_timeout_s, plan_.ready_path, answer.substr(0, 120)));
      }
      if (!owned_ && !options_.api_key.empty()) {
        owned_ = os::listening_owner(plan_.port, out_.child->pid()).has_value();
      }
      // A server that accepts and never answers must not hold us beyond the limits.
      double patience = std::clamp(options_.load_timeout_s - elapsed, 0.05, 2.0);
      auto ready = os::http(get(plan_.ready_path, patience));  // refused and 503 both mean loading
      if (ready.ok() && ready->status == 200) {
        return true;
      }
      answer = ready.ok() ? fmt::format("HTTP {} {}", ready->status, ready->body) : ready.failure().what;
      if (double idle = idle_s(answer); idle > options_.load_stall_s) {
        return fail(Status::kHang,
                    fmt::format("no progress for {:.0f} s while loading (backend.load_stall): no log, "
                                "no reading, no memory, no CPU time; {} last gave {}",
                                idle, plan_.ready_path, answer.substr(0, 120)));
      }
      // A twentieth of the time waited so far: what a poll adds to a load is never more than 5%, at most 0.1 s.
      wait(std::clamp(seconds_since(start_) / 20, 0.002, 0.1));
    }
    return false;
  }

  // Seconds without any sign of progress. A walk over /proc costs milliseconds, so not at every poll.
  double idle_s(const std::string& answer) {
    if (out_.child == nullptr || options_.load_stall_s >= options_.load_timeout_s) {
      return 0;
    }
    double now = seconds_since(start_);
    if (now < next_look_s_) {
      return 0;
    }
    next_look_s_ = now + std::clamp(options_.load_stall_s / 20, 0.05, 5.0);
    os::Activity activity = os::read_activity(out_.child->pid());
    LoadSigns signs;
    signs.log_bytes = log_.read(plan_.ready_path);
    signs.cpu_s = activity.cpu_s;
    signs.read_bytes = activity.read_bytes;
    signs.rss_bytes = activity.rss_bytes;
    signs.answer = answer;
    return watch_.idle_s(now, signs);
  }

  bool socket_is_ours() {
    if (owned_) {
      return true;
    }
    for (int tries = 0; tries < 5; ++tries) {
      if (os::listening_owner(plan_.port, out_.child->pid())) {
        owned_ = true;
        return true;
      }
      if (ended(Status::kLoadCrash)) {
        return false;
      }
      wait(0.05);
    }
    out_.port_taken = true;
    return fail(
        Status::kLoadCrash,
        fmt::format("port {} is answered by a program that is not the server we started", plan_.port));
  }

  bool model_is_ours() {
    auto answer = os::http(get("/v1/models", 10));
    if (!answer) {
      return !ended(Status::kLoadCrash) &&
             fail(Status::kHang, plan_.ready_path + " says ok, " + answer.failure().to_string());
    }
    auto models = base::parse_json(answer->body, "/v1/models");
    if (answer->status != 200 || !models) {
      return fail(Status::kConfigMismatch,
                  fmt::format("GET /v1/models gave status {} and no list of models", answer->status));
    }
    auto id = named_model(*models, plan_.model_names);
    if (!id) {
      return fail(Status::kConfigMismatch, another_model(*models, plan_.model_names));
    }
    if (!plan_.native) {
      out_.endpoint.model = *id;  // vllm refuses requests that do not name it
    }
    return true;
  }

  bool first_token() {
    auto start = Clock::now();
    constexpr const char* kPrompt = "The capital of France is";
    auto generation = plan_.native ? probes::complete(out_.endpoint, kPrompt, 1, true)
                                   : probes::chat(out_.endpoint, {{"user", kPrompt}}, 1);
    if (!generation) {
      // The connection closes before the exit can be read.
      if (!interrupted()) {
        wait(0.3);
      }
      if (ended(Status::kLoadCrash)) {
        return false;
      }
      os::HttpFault fault = os::http_fault(generation.failure());
      bool late = fault == os::HttpFault::kTimedOut || fault == os::HttpFault::kNoData;
      return late ? fail(Status::kHang, plan_.ready_path +
                                            " says ok, but a completion of one token never came (" +
                                            generation.failure().what + ")")
                  : fail(Status::kRunCrash,
                         "the first completion failed: " + generation.failure().to_string());
    }
    if (generation->completion_tokens < 1 && generation->content.empty() && generation->reasoning.empty()) {
      return fail(Status::kHang,
                  plan_.ready_path + " says ok, but a completion of one token came back empty");
    }
    out_.t_warmup_s = seconds_since(start);
    return true;
  }

  void read_back() {
    if (!plan_.native) {
      return;  // /v1 has nothing to ask for a configuration
    }
    auto answer = os::http(get("/props", 10));
    if (answer.ok() && answer->status == 200) {
      if (auto props = base::parse_json(answer->body, "/props")) {
        out_.effective = effective_config(*props);
      }
    }
  }

  const LaunchPlan& plan_;
  const LaunchOptions& options_;
  Launched& out_;
  Clock::time_point start_;
  LogReader log_;
  LoadWatch watch_;
  double next_look_s_ = 0;
  bool owned_ =
      false;  // the listening socket is known to be the candidate's; before that nobody is told the key
};

}  // namespace

LaunchOptions launch_options(const Study& study) {
  LaunchOptions options;
  options.load_timeout_s = study.backend.load_timeout_s;
  options.load_stall_s = study.backend.load_stall_s;
  options.request_timeout_s = study.probes.request_timeout_s;
  options.stall_timeout_s = study.probes.stall_timeout_s;
  options.min_headroom_bytes = static_cast<uint64_t>(study.probes.min_headroom_gib * (1 << 30));
  const char* key =
      study.backend.api_key_env.empty() ? nullptr : std::getenv(study.backend.api_key_env.c_str());
  options.api_key = key == nullptr ? "" : key;
  return options;
}

Launched launch_until_ready(const LaunchPlan& plan, const LaunchOptions& options) {
  Launched launched;
  auto start = Clock::now();
  launched.foreign = plan.foreign;
  if (!plan.foreign) {
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
  }
  Load(plan, options, start, launched).run();
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
    } else if (first.empty() && says(line, kWords) && !says(line, kBenignWords)) {
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

}  // namespace study
