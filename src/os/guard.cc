#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>

#include "src/os/guard_protocol.h"
#include "src/os/memory_watch.h"
#include "src/os/proc.h"

namespace os {
namespace guard {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::nanoseconds seconds(double s) {
  return std::chrono::nanoseconds(static_cast<int64_t>(s * 1e9));
}

// The candidate's environment: ours (which is the driver's), less what is unset, plus what is set.
std::vector<std::string> make_environment(const Spec& spec) {
  auto names = [](std::string_view entry, std::string_view name) {
    return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
  };
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool drop = std::any_of(spec.unset_env.begin(), spec.unset_env.end(),
                            [&](const std::string& name) { return names(*entry, name); }) ||
                std::any_of(spec.set_env.begin(), spec.set_env.end(), [&](const std::string& set) {
                  return names(*entry, std::string_view(set).substr(0, set.find('=')));
                });
    if (!drop) {
      result.emplace_back(*entry);
    }
  }
  result.insert(result.end(), spec.set_env.begin(), spec.set_env.end());
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& s : strings) {
    result.push_back(s.data());
  }
  result.push_back(nullptr);
  return result;
}

class Guard {
 public:
  explicit Guard(const std::string& host) : sampler_(self_, host) {}
  int run();

 private:
  bool receive_spec();
  bool start();
  [[noreturn]] void become_candidate(int log, int errors, char** argv, char** env);
  void send(Report::Kind kind, Report::Stage stage = Report::kNone, int error = 0);
  bool receive_command();  // false: the driver is gone
  bool reap();  // true: we have no child left, so no descendant either, for a subreaper inherits all orphans
  void signal_group(int signal);
  void kill_everything();  // one round
  void sample();
  void limit_log();
  void advance();
  int poll_timeout_ms() const;

  Spec spec_;
  pid_t self_ = ::getpid(), child_ = 0;
  int signals_ = -1, answers_ = -1;  // answers_: the candidate's stdout, where that is not the log
  ChildExit exit_;
  bool ended_ = false, gone_ = false, driver_dead_ = false;
  enum class Stop { kNo, kFirstTerm, kSecondTerm, kKilling } stop_ = Stop::kNo;
  Clock::duration grace_{};
  Clock::time_point next_step_ = Clock::time_point::max();  // of stop_
  Clock::duration kill_pause_ = std::chrono::milliseconds(1);
  Clock::time_point next_sample_{};
  MemorySampler sampler_;
  MemoryJudge judge_{WatchLimits{}};
  MemorySample first_;  // of the trace
  MemoryTrace trace_;
};

bool Guard::receive_spec() {
  auto receive = [](void* data, size_t size) {
    ssize_t n = 0;
    do {
      n = ::recv(kControlFd, data, size, 0);
    } while (n < 0 && errno == EINTR);
    return n;
  };
  uint64_t size = 0;
  if (receive(&size, sizeof size) != sizeof size) {
    return false;
  }
  std::string bytes;
  std::vector<char> chunk(kSpecChunk);
  while (bytes.size() < size) {
    ssize_t n = receive(chunk.data(), chunk.size());
    if (n <= 0) {
      return false;
    }
    bytes.append(chunk.data(), static_cast<size_t>(n));
  }
  return decode(bytes, spec_);
}

void Guard::send(Report::Kind kind, Report::Stage stage, int error) {
  Report report{};
  report.kind = kind;
  report.stage = stage;
  report.error = error;
  report.pid = child_;
  report.exit = exit_;
  report.trace = trace_;
  while (::send(kControlFd, &report, sizeof report, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void Guard::become_candidate(int log, int errors, char** argv, char** env) {
  ::setsid();
  // Sent when the thread that forked us ends; the guard has only one, so that is when the guard ends.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != self_) {
    ::_exit(126);
  }
  // What the guard ignores would stay ignored across exec. All zero is SIG_DFL; the system call itself,
  // because posix_spawn leaves signals 32 and 33 ignored and the C library does not let us name them.
  char default_action[64] = {};
  for (int signal = 1; signal < NSIG; ++signal) {
    ::syscall(SYS_rt_sigaction, signal, default_action, nullptr, 8);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);  // a crash must not write a KV cache's worth of core file
  std::string score = fmt::format("{}", spec_.oom_score_adj);
  if (int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    [[maybe_unused]] ssize_t n = ::write(fd, score.data(), score.size());
  }
  if (!spec_.own_stdin) {
    int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(null, STDIN_FILENO);
  }
  ::dup2(answers_ >= 0 ? answers_ : log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execve(spec_.program.c_str(), argv, env);
  int failure = errno;
  [[maybe_unused]] ssize_t n = ::write(errors, &failure, sizeof failure);
  ::_exit(127);
}

bool Guard::start() {
  int log = ::open(spec_.log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) {
    send(Report::kFailed, Report::kLog, errno);
    return false;
  }
  if (spec_.own_stdout) {
    answers_ = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, kControlFd + 1);
  }
  // What the guard itself may have to say goes there too; the driver's terminal must not be held open.
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  int errors[2];
  std::vector<std::string> environment = make_environment(spec_);
  std::vector<char*> argv = pointers(spec_.argv), env = pointers(environment);
  if (::pipe2(errors, O_CLOEXEC) != 0 || (child_ = ::fork()) < 0) {
    send(Report::kFailed, Report::kFork, errno);
    return false;
  }
  if (child_ == 0) {
    become_candidate(log, errors[1], argv.data(), env.data());
  }
  ::close(errors[1]);
  ::close(log);
  // The candidate's alone from here on: its end must be seen by whoever talks with it.
  if (answers_ >= 0) {
    ::close(answers_);
  }
  if (spec_.own_stdin) {
    int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(null, STDIN_FILENO);
    ::close(null);
  }
  int failure = 0;
  ssize_t n = 0;
  do {
    n = ::read(errors[0], &failure, sizeof failure);
  } while (n < 0 && errno == EINTR);
  ::close(errors[0]);
  if (n == sizeof failure) {
    send(Report::kFailed, Report::kExec, failure);
    return false;
  }
  send(Report::kStarted);
  return true;
}

bool Guard::reap() {
  for (;;) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0) {
      return errno == ECHILD;
    }
    if (info.si_pid == 0) {
      return false;
    }
    if (info.si_pid != child_ || ended_) {
      continue;  // an orphan that came to us
    }
    ended_ = true;
    exit_.by_signal = info.si_code != CLD_EXITED;
    exit_.code = info.si_status;
    if (stop_ == Stop::kNo) {  // else the others are about to end, or to be ended, as well
      exit_.left_behind = static_cast<int>(descendants(self_).size());
    }
    send(Report::kExit);
    stop_ = Stop::kKilling;
    next_step_ = Clock::now();
  }
}

void Guard::signal_group(int signal) {
  if (!ended_ && ::kill(-child_, signal) != 0) {
    ::kill(child_, signal);
  }
}

void Guard::kill_everything() {
  signal_group(SIGKILL);
  reap();
  // Whoever left the group or the session is still below us. A walk over /proc is no snapshot and may miss
  // one that is being born: that none is left, only the kernel can say.
  for (pid_t pid : descendants(self_)) {
    ::kill(pid, SIGKILL);
  }
  gone_ = reap();
}

// Our stdout is the log, as the candidate's is, and appends: what it writes next goes to the new end.
void Guard::limit_log() {
  struct stat info {};
  if (spec_.max_log_bytes == 0 || child_ == 0 || ::fstat(STDOUT_FILENO, &info) != 0 ||
      !S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) <= spec_.max_log_bytes ||
      ::ftruncate(STDOUT_FILENO, 0) != 0) {
    return;
  }
  std::string note =
      fmt::format("autoresearch: this log passed {} bytes and was emptied here\n", spec_.max_log_bytes);
  [[maybe_unused]] ssize_t n = ::write(STDOUT_FILENO, note.data(), note.size());
}

void Guard::sample() {
  limit_log();
  const MemorySample sample = sampler_.take();
  if (trace_.samples == 0) {
    first_ = sample;
  }
  extend(trace_, first_, sample);
  trace_.sample_us = sampler_.mean_us();
  const MemoryRule rule = judge_.judge(sample);
  if (rule != MemoryRule::kNone && child_ != 0 && !ended_ && stop_ != Stop::kKilling) {
    exit_.memory_guard = true;
    exit_.memory_rule = rule;
    stop_ = Stop::kKilling;
    kill_everything();
    next_step_ = Clock::now();
  }
  next_sample_ =
      Clock::now() + seconds(sample_interval_s(spec_.sample_hz, spec_.min_headroom_bytes, sample.headroom));
}

bool Guard::receive_command() {
  Command command;
  ssize_t n = ::recv(kControlFd, &command, sizeof command, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    return true;
  }
  if (n != sizeof command) {
    return false;
  }
  switch (command.kind) {
    case Command::kMemory:
      if (trace_.samples > 0 || !gone_) {
        sample();
      }
      send(Report::kMemory);
      break;
    case Command::kRestartTrace:
      trace_ = {};
      break;  // the next sample opens the new trace
    case Command::kStop:
      if (!ended_ && stop_ == Stop::kNo) {
        grace_ = seconds(std::clamp(command.grace_s, 0.0, 3600.0));
        signal_group(SIGTERM);
        stop_ = Stop::kFirstTerm;
        next_step_ = Clock::now() + grace_;
      }
      break;
    case Command::kKill:
      if (!gone_) {
        stop_ = Stop::kKilling;
        next_step_ = Clock::now();
      }
      break;
  }
  return true;
}

void Guard::advance() {
  if (gone_ || Clock::now() < next_step_) {
    return;
  }
  switch (stop_) {
    case Stop::kNo:
      break;
    case Stop::kFirstTerm:
      signal_group(SIGTERM);
      stop_ = Stop::kSecondTerm;
      next_step_ += grace_;
      break;
    case Stop::kSecondTerm:
      stop_ = Stop::kKilling;
      [[fallthrough]];
    case Stop::kKilling:
      kill_everything();
      next_step_ = Clock::now() + kill_pause_;
      kill_pause_ = std::min<Clock::duration>(kill_pause_ * 2, std::chrono::milliseconds(100));
      if (gone_) {
        sampler_.look_again();
        sample();
        send(Report::kGone);
      }
      break;
  }
}

int Guard::poll_timeout_ms() const {
  if (gone_) {
    return -1;  // nothing left to watch; the driver may still ask
  }
  Clock::time_point next = std::min(next_step_, next_sample_);
  auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX));
}

int Guard::run() {
  ::fcntl(kControlFd, F_SETFD, FD_CLOEXEC);
  ::close_range(kControlFd + 1, ~0U, 0);  // whatever the driver had open without close-on-exec
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2}) {
    ::signal(signal, SIG_IGN);
  }
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &child_signal, nullptr);
  signals_ = ::signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0 || !receive_spec()) {
    return 1;  // the driver sees its socket close
  }
  WatchLimits limits;
  limits.min_headroom_bytes = spec_.min_headroom_bytes;
  judge_ = MemoryJudge(limits);
  sample();  // the state before
  if (!start()) {
    return 1;
  }
  sampler_.look_again();
  // A guard that waits for its own pages cannot end the thrashing. On fault: what it never touches costs nothing.
  // Where the limit on locked memory forbids it, the sampling itself keeps them warm.
  ::mlockall(MCL_CURRENT | MCL_ONFAULT);
  while (!driver_dead_) {
    pollfd fds[] = {{kControlFd, POLLIN, 0}, {signals_, POLLIN, 0}};
    ::poll(fds, 2, poll_timeout_ms());
    if (fds[0].revents != 0) {
      driver_dead_ = !receive_command();
    }
    if (fds[1].revents != 0) {
      signalfd_siginfo info;
      while (::read(signals_, &info, sizeof info) > 0) {
      }
      reap();
    }
    if (!gone_ && Clock::now() >= next_sample_) {
      sample();
    }
    advance();
  }
  // Nobody is left to report to: only to clean up, for as long as it takes.
  stop_ = Stop::kKilling;
  for (int pause_us = 200; !gone_; pause_us = std::min(pause_us * 2, 100000)) {
    kill_everything();
    if (!gone_) {
      ::usleep(static_cast<useconds_t>(pause_us));
    }
  }
  return 0;
}

}  // namespace
}  // namespace guard

int guard_main(int argc, char** argv, const std::string& host) {
  int type = 0;
  socklen_t length = sizeof type;
  if (argc != 2 || std::strcmp(argv[1], kGuardCommand) != 0 ||
      ::getsockopt(guard::kControlFd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_SEQPACKET) {
    fmt::print(stderr, "{}: this command is for autoresearch itself; it guards a server it has launched\n",
               kGuardCommand);
    return 2;
  }
  return guard::Guard(host).run();
}

}  // namespace os
