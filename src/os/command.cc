#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>

#include "src/os/child.h"
#include "src/os/files.h"

namespace os {
namespace {

using Clock = std::chrono::steady_clock;

// Reads what is there; false at the end of the stream. Beyond max_output it reads on but keeps nothing, so
// that the command does not block on a full pipe.
bool drain(int fd, std::string& text, size_t max_output) {
  char buffer[1 << 14];
  ssize_t n = ::read(fd, buffer, sizeof buffer);
  if (n > 0) {
    text.append(buffer, std::min(static_cast<size_t>(n), max_output - std::min(max_output, text.size())));
  }
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

ChildExit reap(pid_t pid) {
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED) != 0 && errno == EINTR) {
  }
  ChildExit exit;
  exit.by_signal = info.si_code != CLD_EXITED;
  exit.code = info.si_status;
  return exit;
}

bool has_ended(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

}  // namespace

base::Result<CommandOutput> run_command(const std::vector<std::string>& argv, double timeout_s,
                                        size_t max_output) {
  if (argv.empty()) {
    return base::error("run", "there is no command to run", "name a program");
  }
  std::string program = argv[0].find('/') == std::string::npos ? find_in_path(argv[0]) : argv[0];
  if (program.empty()) {
    return base::error(argv[0], "not found in PATH", "install it, or give its path");
  }
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0) {
    return base::sys_error(program, "no pipe for its output", errno, "check ulimit -n");
  }
  if (::pipe2(err, O_CLOEXEC) != 0) {
    int failure = errno;
    ::close(out[0]);
    ::close(out[1]);
    return base::sys_error(program, "no pipe for its output", failure, "check ulimit -n");
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<std::string> words = argv;
  std::vector<char*> pointers;
  for (std::string& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  pid_t pid = 0;
  int failure = ::posix_spawn(&pid, program.c_str(), &actions, &attributes, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(out[1]);
  ::close(err[1]);
  CommandOutput result;
  if (failure == 0) {
    ::fcntl(out[0], F_SETFL, O_NONBLOCK);
    ::fcntl(err[0], F_SETFL, O_NONBLOCK);
    auto deadline = Clock::now() + std::chrono::nanoseconds(static_cast<int64_t>(timeout_s * 1e9));
    bool out_open = true, err_open = true, ended = false;
    while (out_open || err_open || !ended) {
      if (Clock::now() >= deadline) {
        result.timed_out =
            !ended;  // ended, yet a child of its own holds the pipe: its output is complete enough
        break;
      }
      if (!ended && has_ended(pid)) {
        ended = true;
        deadline = std::min(deadline, Clock::now() + std::chrono::milliseconds(200));
      }
      pollfd fds[] = {{out_open ? out[0] : -1, POLLIN, 0}, {err_open ? err[0] : -1, POLLIN, 0}};
      ::poll(fds, 2, ended || (!out_open && !err_open) ? 5 : 20);
      if (fds[0].revents != 0) {
        out_open = drain(out[0], result.out, max_output);
      }
      if (fds[1].revents != 0) {
        err_open = drain(err[0], result.err, max_output);
      }
    }
    ::kill(-pid, SIGKILL);  // it led a session of its own; nothing of that may stay
    result.exit = reap(pid);
  }
  ::close(out[0]);
  ::close(err[0]);
  if (failure != 0) {
    return base::sys_error(program, "cannot be run", failure, "check the path of the binary");
  }
  return result;
}

}  // namespace os
