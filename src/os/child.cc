#include "src/os/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <mutex>
#include <thread>

#include "src/base/log.h"
#include "src/os/files.h"
#include "src/os/guard_protocol.h"
#include "src/os/proc.h"

namespace os {
namespace {

using Clock = std::chrono::steady_clock;
using guard::Command;
using guard::Report;

Clock::time_point after(double seconds) {
  return Clock::now() + std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

// The file that argv[0] names, or why it cannot be run.
base::Result<std::string> resolve_program(const std::string& name) {
  std::string path = name.find('/') == std::string::npos ? find_in_path(name) : name;
  if (path.empty()) {
    return base::error(name, "not found in PATH", "install it, or give its path");
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return base::sys_error(path, "cannot be run", errno, "check the path of the binary");
  }
  if (!S_ISREG(info.st_mode) || ::access(path.c_str(), X_OK) != 0) {
    return base::error(path, "is not an executable file", "check the path, or chmod +x it");
  }
  return path;
}

// A driver's pid means something in its pid namespace only: another container's leftovers are not ours.
uint64_t own_pid_namespace() {
  struct stat info {};
  return ::stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

// Names one launch for ever: pid namespace, driver, its start, and a count.
std::string new_launch_id() {
  static std::atomic<unsigned> counter{0};
  return fmt::format("{}-{}-{}-{}", own_pid_namespace(), ::getpid(),
                     process_start_ticks(::getpid()).value_or(0), counter++);
}

int kill_all(const std::vector<pid_t>& pids) {
  int killed = 0;
  for (pid_t pid : pids) {
    killed += pid != ::getpid() && ::kill(pid, SIGKILL) == 0 ? 1 : 0;
  }
  return killed;
}

base::Error describe_failure(const Report& report, const LaunchSpec& spec, const std::string& program) {
  switch (report.stage) {
    case Report::kLog:
      return base::sys_error(spec.log_path, "the server's log cannot be opened", report.error,
                             "choose a directory that you may write to");
    case Report::kFork:
      return base::sys_error(program, "no process could be made for it", report.error,
                             "check the limits on processes (ulimit -u) and memory");
    case Report::kExec:
    case Report::kNone:
      break;
  }
  return base::sys_error(program, "cannot be run", report.error,
                         report.error == ENOENT    ? "its interpreter (#! line or ELF loader) is missing"
                         : report.error == ENOEXEC ? "it is no program for this machine"
                                                   : "check the binary");
}

}  // namespace

std::string ChildExit::to_string() const {
  std::string text;
  if (memory_guard) {
    text = memory_rule == MemoryRule::kThrashing ? "killed by the memory guard: the host was thrashing"
                                                 : "killed by the memory guard";
  } else if (guard_lost) {
    text = "killed with its guard";
  } else if (by_signal) {
    const char* name = ::sigabbrev_np(code);
    text = name != nullptr ? fmt::format("killed by SIG{}", name) : fmt::format("killed by signal {}", code);
  } else {
    text = fmt::format("exit code {}", code);
  }
  if (left_behind > 0) {
    text += fmt::format(", leaving {} process{} behind", left_behind, left_behind == 1 ? "" : "es");
  }
  return text;
}

struct GuardedChild::State {
  std::mutex mutex;  // of everything below but the constants control, guard, launch_id
  int control = -1;
  pid_t guard = 0;
  std::string launch_id;
  std::optional<Report> start;
  pid_t child = 0;
  std::optional<ChildExit> exit;
  bool gone = false, lost = false;
  int memory_replies = 0;
  MemoryTrace trace;

  bool send(Command::Kind kind, double grace_s = 0) {
    Command command{kind, grace_s};
    return ::send(control, &command, sizeof command, MSG_NOSIGNAL) == sizeof command;
  }

  // Takes in whatever the guard has said. Call with the mutex held.
  void drain() {
    while (!lost) {
      Report report;
      ssize_t n = ::recv(control, &report, sizeof report, MSG_DONTWAIT);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
      }
      if (n != sizeof report) {
        lose_guard();
        return;
      }
      take(report);
    }
  }

  void take(const Report& report) {
    trace = report.trace;
    switch (report.kind) {
      case Report::kStarted:
      case Report::kFailed:
        start = report;
        child = report.pid;
        break;
      case Report::kExit:
        exit = report.exit;
        break;
      case Report::kGone:
        gone = true;
        break;
      case Report::kMemory:
        ++memory_replies;
        break;
    }
  }

  // Killed from outside: the candidate died with it (its parent-death signal), but what that had started did
  // not.
  void lose_guard() {
    lost = true;
    if (!gone && child != 0) {
      // A walk over /proc may miss one that is being born: three in a row must find none.
      for (int round = 0, empty = 0; round < 100 && empty < 3; ++round) {
        std::vector<pid_t> left;
        for (const auto& [pid, id] : processes_with_variable(guard::kLaunchVariable)) {
          if (id == launch_id) {
            left.push_back(pid);
          }
        }
        empty = kill_all(left) == 0 ? empty + 1 : 0;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
    gone = true;
    if (!exit) {
      ChildExit killed;
      killed.by_signal = true;
      killed.code = SIGKILL;
      killed.guard_lost = true;
      exit = killed;
    }
  }

  // Waits until `condition` holds (asked with the mutex held) or the deadline passes; what it was at the end.
  template <class Condition>
  bool wait_until(Clock::time_point deadline, Condition condition) {
    for (;;) {
      {
        std::lock_guard lock(mutex);
        drain();
        if (condition()) {
          return true;
        }
        if (lost) {
          return false;
        }
      }
      auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0) {
        return false;
      }
      // In slices: another thread may take the message that we wait for.
      pollfd fds{control, POLLIN, 0};
      ::poll(&fds, 1, static_cast<int>(std::min<int64_t>(left, 50)));
    }
  }
};

GuardedChild::GuardedChild() : state_(std::make_unique<State>()) {}

base::Result<std::unique_ptr<GuardedChild>> GuardedChild::launch(const LaunchSpec& spec) {
  if (spec.argv.empty()) {
    return base::error("launch", "there is no command to run", "name a binary");
  }
  auto program = resolve_program(spec.argv[0]);
  if (!program) {
    return program.failure();
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return base::sys_error(*program, "no socket pair for its guard", errno, "check ulimit -n");
  }
  std::unique_ptr<GuardedChild> child(new GuardedChild);
  State& state = *child->state_;
  state.control = pair[0];
  state.launch_id = new_launch_id();

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  // The guard keeps them for the candidate as its own; before the control socket, whose number one may have.
  if (spec.stdin_fd >= 0) {
    posix_spawn_file_actions_adddup2(&actions, spec.stdin_fd, STDIN_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  }
  if (spec.stdout_fd >= 0) {
    posix_spawn_file_actions_adddup2(&actions, spec.stdout_fd, STDOUT_FILENO);
  }
  posix_spawn_file_actions_adddup2(&actions, pair[1], guard::kControlFd);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string guard_program = spec.guard_program, command = kGuardCommand;
  char* argv[] = {guard_program.data(), command.data(), nullptr};
  int failure = ::posix_spawn(&state.guard, guard_program.c_str(), &actions, &attributes, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(pair[1]);
  if (failure != 0) {
    state.guard = 0;
    return base::sys_error(guard_program, "the guard process cannot be started", failure, "");
  }

  guard::Spec wire;
  wire.program = *program;
  wire.argv = spec.argv;
  for (const auto& [name, value] : spec.env) {
    wire.set_env.push_back(name + "=" + value);
  }
  wire.set_env.push_back(fmt::format("{}={}", guard::kLaunchVariable, state.launch_id));
  wire.unset_env = spec.unset_env;
  wire.log_path = spec.log_path.empty() ? "/dev/null" : spec.log_path;
  wire.max_log_bytes = spec.max_log_bytes;
  wire.min_headroom_bytes = spec.min_headroom_bytes;
  wire.sample_hz = spec.sample_hz;
  wire.oom_score_adj = spec.oom_score_adj;
  wire.own_stdin = spec.stdin_fd >= 0;
  wire.own_stdout = spec.stdout_fd >= 0;
  std::string bytes = guard::encode(wire);
  auto size = static_cast<uint64_t>(bytes.size());
  bool sent = ::send(state.control, &size, sizeof size, MSG_NOSIGNAL) == sizeof size;
  for (size_t at = 0; sent && at < bytes.size(); at += guard::kSpecChunk) {
    size_t n = std::min(guard::kSpecChunk, bytes.size() - at);
    sent = ::send(state.control, bytes.data() + at, n, MSG_NOSIGNAL) == static_cast<ssize_t>(n);
  }
  state.wait_until(after(60), [&] { return state.start.has_value(); });
  if (!state.start) {
    return base::error(guard_program, "the guard process did not start the server",
                       "see the log " + wire.log_path);
  }
  if (state.start->kind == Report::kFailed) {
    state.child = 0;
    return describe_failure(*state.start, spec, *program);
  }
  return child;
}

GuardedChild::~GuardedChild() {
  if (state_->guard != 0) {
    state_->send(Command::kKill);
    if (state_->child != 0) {
      state_->wait_until(after(10), [&] { return state_->gone; });
    }
  }
  if (state_->control >= 0) {
    ::close(state_->control);  // the guard's sign to end
  }
  for (Clock::time_point deadline = after(5); state_->guard != 0 && Clock::now() < deadline;) {
    if (::waitpid(state_->guard, nullptr, WNOHANG) != 0) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (state_->guard != 0) {
    base::log_warn("guard {} still waits for a process that cannot be killed", state_->guard);
  }
}

pid_t GuardedChild::pid() const {
  std::lock_guard lock(state_->mutex);
  return state_->child;
}

pid_t GuardedChild::guard_pid() const {
  return state_->guard;
}

std::optional<ChildExit> GuardedChild::poll() {
  std::lock_guard lock(state_->mutex);
  state_->drain();
  return state_->exit;
}

std::optional<ChildExit> GuardedChild::wait(double timeout_s) {
  state_->wait_until(after(timeout_s), [&] { return state_->exit.has_value(); });
  std::lock_guard lock(state_->mutex);
  return state_->exit;
}

ChildExit GuardedChild::stop(double grace_s) {
  state_->send(Command::kStop, grace_s);
  state_->wait_until(after(2 * std::max(grace_s, 0.0) + 30), [&] { return state_->gone; });
  std::lock_guard lock(state_->mutex);
  if (state_->exit) {
    return *state_->exit;
  }
  base::log_warn("process {} cannot be killed; the kernel holds it", state_->child);
  ChildExit stuck;
  stuck.by_signal = true;
  stuck.code = SIGKILL;
  return stuck;
}

MemoryTrace GuardedChild::memory() const {
  int before = 0;
  {
    std::lock_guard lock(state_->mutex);
    before = state_->memory_replies;
  }
  if (state_->send(Command::kMemory)) {
    state_->wait_until(after(2), [&] { return state_->memory_replies != before; });
  }
  std::lock_guard lock(state_->mutex);
  return state_->trace;
}

void GuardedChild::restart_trace() {
  state_->send(Command::kRestartTrace);
}

int kill_leftovers() {
  const uint64_t here = own_pid_namespace();
  std::vector<pid_t> orphans;
  for (const auto& [pid, id] : processes_with_variable(guard::kLaunchVariable)) {
    uint64_t pid_namespace = 0, start = 0;
    pid_t driver = 0;
    char dash = 0;
    // A pid may have been given to somebody else since; with its start time it is one process only.
    if (std::sscanf(id.c_str(), "%lu-%d-%lu%c", &pid_namespace, &driver, &start, &dash) == 4 && dash == '-' &&
        pid_namespace == here && process_start_ticks(driver) != start) {
      orphans.push_back(pid);
    }
  }
  return kill_all(orphans);
}

}  // namespace os
