#include "src/os/service.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <utility>

#include "src/base/log.h"
#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/guard_protocol.h"
#include "src/os/proc.h"

namespace os {
namespace {

using Clock = std::chrono::steady_clock;

// The watcher's own descriptors.
constexpr int kPipeFd = 3, kLockFd = 4;
constexpr double kAskTimeout_s = 30, kStopTimeout_s = 300, kStartTimeout_s = 120, kLockTimeout_s = 90;
constexpr double kSettleTimeout_s = 120;
constexpr int kSettlePoll_ms = 100, kInactiveAsks = 5;
constexpr double kCandidatesTimeout_s = 30;  // a guard kills its candidates within a second

void nap_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

// Of this user alone, since /tmp is everybody's.
std::string lock_path(const std::string& unit) {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  std::string directory = runtime != nullptr && *runtime == '/' ? runtime : "/tmp";
  return fmt::format("{}/autoresearch-{}-{}.lock", directory, ::getuid(), unit);
}

// Waits while the watcher of a run that has just died brings the unit back.
base::Result<int> lock_unit(const std::string& unit) {
  std::string path = lock_path(unit);
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return base::sys_error(path, "the lock of the service cannot be opened", errno, "remove that file");
  }
  auto start = Clock::now();
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EINTR && (errno != EWOULDBLOCK || seconds_since(start) > kLockTimeout_s)) {
      int problem = errno;
      ::close(fd);
      return problem == EWOULDBLOCK
                 ? base::error(unit, "another run has stopped this service and still holds it",
                               "wait for that run to end, or end it")
                 : base::sys_error(path, "the lock of the service cannot be taken", problem, "");
    }
    nap_ms(20);
  }
  return fd;
}

base::Result<CommandOutput> systemctl(const char* verb, const std::string& unit, double timeout_s) {
  return run_command({"systemctl", "--user", verb, unit}, timeout_s);
}

// What is-active prints once the unit no longer ends. Between the two halves of a restart it is inactive for an
// instant, so that after an end it has to stay so.
base::Result<CommandOutput> settled_state(const std::string& unit) {
  auto start = Clock::now();
  for (int inactive_left = 1;; nap_ms(kSettlePoll_ms)) {
    auto asked = systemctl("is-active", unit, kAskTimeout_s);
    if (!asked) {
      return asked;
    }
    const UnitState state = parse_unit_state(asked->out);
    if (state == UnitState::kEnding) {
      inactive_left = kInactiveAsks;
      if (seconds_since(start) > kSettleTimeout_s) {
        return base::error(unit, "the service has been stopping for minutes and does not end",
                           "end it by hand, or remove service: from the space file");
      }
    } else if (state != UnitState::kInactive || --inactive_left <= 0) {
      return asked;
    }
  }
}

// Processes that the driver of the watcher launched, by the mark in their environment.
bool candidates_left(const std::string& driver) {
  for (const auto& [pid, launch] : processes_with_variable(guard::kLaunchVariable)) {
    if (launch.find(driver) != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

struct HeldService::State {
  std::string unit;
  int pipe = -1, lock = -1;
  pid_t watcher = 0;

  ~State() {
    for (int fd : {pipe, lock}) {
      if (fd >= 0) {
        ::close(fd);
      }
    }
  }

  base::Result<void> start_watcher(std::string program) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      return base::sys_error(unit, "no pipe for the service's watcher", errno, "check ulimit -n");
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    // Through high numbers first: dup2 onto 3 must not overwrite what is to become 4.
    constexpr int kHigh = 900;
    posix_spawn_file_actions_adddup2(&actions, ends[0], kHigh);
    posix_spawn_file_actions_adddup2(&actions, lock, kHigh + 1);
    posix_spawn_file_actions_adddup2(&actions, kHigh, kPipeFd);
    posix_spawn_file_actions_adddup2(&actions, kHigh + 1, kLockFd);
    posix_spawn_file_actions_addclose(&actions, kHigh);
    posix_spawn_file_actions_addclose(&actions, kHigh + 1);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::string command = kServiceCommand, name = unit;
    std::string driver = fmt::format("-{}-{}-", ::getpid(), process_start_ticks(::getpid()).value_or(0));
    char* argv[] = {program.data(), command.data(), name.data(), driver.data(), nullptr};
    int failure = ::posix_spawn(&watcher, program.c_str(), &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    ::close(ends[0]);
    pipe = ends[1];
    if (failure != 0) {
      watcher = 0;
      return base::sys_error(program, "the service's watcher cannot be started", failure, "");
    }
    return {};
  }
};

HeldService::HeldService(std::unique_ptr<State> state) : state_(std::move(state)) {}
HeldService::HeldService(HeldService&& other) noexcept = default;

HeldService& HeldService::operator=(HeldService&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

HeldService::~HeldService() {
  if (held()) {
    if (auto restored = restore(); !restored) {
      base::log_warn("{}", restored.failure().to_string());
    }
  }
}

bool HeldService::held() const {
  return state_ != nullptr && state_->watcher != 0;
}

base::Result<HeldService> HeldService::stop(const std::string& unit, const std::string& watcher_program) {
  auto state = std::make_unique<State>();
  state->unit = unit;
  auto lock = lock_unit(unit);
  if (!lock) {
    return lock.failure();
  }
  state->lock = *lock;
  auto asked = settled_state(unit);
  if (!asked) {
    return asked.failure();
  }
  switch (parse_unit_state(asked->out)) {
    case UnitState::kUnknown:
    case UnitState::kEnding:
      return base::error(unit,
                         "systemctl --user cannot tell whether it runs: " +
                             first_line(asked->err.empty() ? asked->out : asked->err),
                         "run `systemctl --user status " + unit + "` by hand, or remove service:");
    case UnitState::kInactive:
      return HeldService(nullptr);
    case UnitState::kActive:
      break;
  }
  // The watcher first: from here on there is no instant at which a kill would leave the unit stopped.
  if (auto started = state->start_watcher(watcher_program); !started) {
    return started.failure();
  }
  HeldService held(std::move(state));
  auto stopped = systemctl("stop", unit, kStopTimeout_s);
  if (!stopped) {
    return stopped.failure();
  }
  if (stopped->timed_out || stopped->exit.by_signal || stopped->exit.code != 0) {
    return base::error(
        unit,
        fmt::format("the service does not stop ({}): {}",
                    stopped->timed_out ? "time-out" : stopped->exit.to_string(), first_line(stopped->err)),
        "stop it by hand, or remove service: from the space file");
  }
  return held;
}

base::Result<void> HeldService::restore() {
  if (!held()) {
    return {};
  }
  ::close(std::exchange(state_->pipe, -1));
  pid_t watcher = std::exchange(state_->watcher, 0);
  const std::string by_hand = "start it by hand: systemctl --user start " + state_->unit;
  auto start = Clock::now();
  int status = 0;
  for (;;) {
    pid_t ended = ::waitpid(watcher, &status, WNOHANG);
    if (ended == watcher) {
      break;
    }
    if (ended < 0 && errno != EINTR) {
      return base::sys_error(state_->unit, "its watcher is gone", errno, by_hand);
    }
    if (seconds_since(start) > kStartTimeout_s) {
      return base::error(state_->unit, "starting it again takes long; its watcher goes on with that",
                         by_hand);
    }
    nap_ms(5);
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return base::error(state_->unit, "the service could not be started again", by_hand);
  }
  state_.reset();
  return {};
}

UnitState parse_unit_state(const std::string& is_active_output) {
  std::string word = first_line(is_active_output);
  for (const char* active : {"active", "activating", "reloading", "refreshing"}) {
    if (word == active) {
      return UnitState::kActive;
    }
  }
  for (const char* inactive : {"inactive", "failed", "unknown", "maintenance"}) {
    if (word == inactive) {
      return UnitState::kInactive;
    }
  }
  return word == "deactivating" ? UnitState::kEnding : UnitState::kUnknown;
}

int service_main(int argc, char** argv) {
  if (argc != 4) {
    return 2;
  }
  const std::string unit = argv[2], driver = argv[3];
  // A terminal's or a session's end is the driver's business; our work comes after it.
  constexpr std::array<int, 4> kIgnored = {SIGTERM, SIGINT, SIGHUP, SIGPIPE};
  for (int signal : kIgnored) {
    std::signal(signal, SIG_IGN);
  }
  char byte;
  while (::read(kPipeFd, &byte, 1) > 0 || errno == EINTR) {
    errno = 0;
  }
  auto start = Clock::now();
  while (candidates_left(driver) && seconds_since(start) < kCandidatesTimeout_s) {
    nap_ms(20);
  }
  for (int signal : kIgnored) {
    std::signal(signal, SIG_DFL);
  }
  ::execlp("systemctl", "systemctl", "--user", "start", unit.c_str(), static_cast<char*>(nullptr));
  return 127;
}

}  // namespace os
