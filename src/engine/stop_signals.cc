#include "src/engine/stop_signals.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>

#include "src/base/check.h"

namespace engine {
namespace {

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

StopSignals::StopSignals() {
  sigset_t set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  signal_fd_ = ::signalfd(-1, &set, SFD_CLOEXEC);
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC);
  AR_CHECK(signal_fd_ >= 0 && wake_fd_ >= 0, "no file descriptors at start");
}

StopSignals::~StopSignals() {
  ::close(signal_fd_);
  ::close(wake_fd_);
}

int StopSignals::wait() {
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  while (::poll(fds, 2, -1) < 0) {
  }
  if (fds[0].revents != 0) {
    signalfd_siginfo info{};
    if (::read(signal_fd_, &info, sizeof info) == sizeof info) {
      return static_cast<int>(info.ssi_signo);
    }
  }
  uint64_t count = 0;
  [[maybe_unused]] ssize_t n = ::read(wake_fd_, &count, sizeof count);
  return 0;
}

void StopSignals::wake() const {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(wake_fd_, &one, sizeof one);
}

void StopSignals::exit_within_ms(int ms) const {
  std::signal(SIGALRM, [](int) { ::_exit(0); });
  itimerval once{};
  once.it_value.tv_sec = ms / 1000;
  once.it_value.tv_usec = ms % 1000 * 1000;
  ::setitimer(ITIMER_REAL, &once, nullptr);
  sigset_t set = stop_set();
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace engine
