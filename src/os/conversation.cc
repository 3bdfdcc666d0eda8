#include "src/os/conversation.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>

#include "src/base/units.h"

namespace os {
namespace {

using Clock = std::chrono::steady_clock;

// Of a poll, so that a cancel is seen.
constexpr int kSliceMs = 50;

// write() to a pipe that nobody reads raises SIGPIPE, which is the program's to handle, not a library's: it is held
// back for this thread and taken away.
ssize_t write_quietly(int fd, const char* data, size_t size) {
  sigset_t pipe_signal, before, pending;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ssize_t n = ::write(fd, data, size);
  int failure = errno;
  if (n < 0 && failure == EPIPE && sigismember(&pending, SIGPIPE) == 0) {
    timespec now{};
    while (sigtimedwait(&pipe_signal, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = failure;
  return n;
}

bool again(ssize_t n) {
  return n < 0 && (errno == EAGAIN || errno == EINTR);
}

}  // namespace

base::Result<std::unique_ptr<Conversation>> Conversation::start(LaunchSpec spec) {
  std::string program = spec.argv.empty() ? "" : spec.argv[0];
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) {
    return base::sys_error(program, "no pipe to talk with it", errno, "check ulimit -n");
  }
  if (::pipe2(out, O_CLOEXEC) != 0) {
    int failure = errno;
    ::close(in[0]);
    ::close(in[1]);
    return base::sys_error(program, "no pipe to talk with it", failure, "check ulimit -n");
  }
  std::unique_ptr<Conversation> talk(new Conversation);
  talk->program_ = program;
  talk->log_path_ = spec.log_path;
  talk->requests_ = in[1];
  talk->answers_ = out[0];
  // Of our ends alone: the child's are files of their own.
  ::fcntl(in[1], F_SETFL, O_NONBLOCK);
  ::fcntl(out[0], F_SETFL, O_NONBLOCK);
  spec.stdin_fd = in[0];
  spec.stdout_fd = out[1];
  auto child = GuardedChild::launch(spec);
  ::close(in[0]);
  ::close(out[1]);
  if (!child) {
    return child.failure();
  }
  talk->child_ = std::move(*child);
  return talk;
}

Conversation::~Conversation() {
  child_.reset();
  ::close(requests_);
  ::close(answers_);
}

// Whatever lies in the pipe was written last.
bool Conversation::unheard() const {
  int unread = 0;
  return ::ioctl(requests_, FIONREAD, &unread) == 0 && static_cast<size_t>(unread) >= sent_;
}

base::Error Conversation::failed(TalkFault fault, std::string what) {
  fault_ = fault;
  return base::error(program_, std::move(what), "see " + log_path_);
}

base::Error Conversation::ended() {
  auto exit = child_->wait(1);
  return failed(TalkFault::kEnded, exit ? "ended: " + exit->to_string() : "closed its output");
}

base::Result<std::string> Conversation::ask(std::string_view line, double timeout_s, size_t max_bytes,
                                            const std::atomic<bool>* cancelled) {
  char buffer[1 << 14];
  ssize_t n = 0;
  size_t stale = 0;
  sent_ = 0;
  fault_ = TalkFault::kNone;
  const auto too_large = [&] {
    return failed(TalkFault::kTooLarge, fmt::format("answer larger than {} bytes", max_bytes));
  };
  while ((n = ::read(answers_, buffer, sizeof buffer)) > 0) {  // said unasked
    stale += static_cast<size_t>(n);
    if (stale > max_bytes) {
      return too_large();  // and nobody has asked it
    }
  }
  if (n == 0) {
    return ended();
  }
  std::string request(line);
  request += '\n';
  std::string answer;
  auto deadline = Clock::now() + std::chrono::nanoseconds(static_cast<int64_t>(timeout_s * 1e9));
  while (true) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      return failed(TalkFault::kTimedOut,
                    fmt::format("timed out after {}", base::format_duration(timeout_s)));
    }
    if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) {
      return failed(TalkFault::kCancelled, "cancelled");
    }
    bool writing = sent_ < request.size();
    // One after the other: what comes before the whole request is there answers something else. That nothing can come
    // any more (POLLHUP) is seen all the time.
    const short wanted = writing ? 0 : POLLIN;
    pollfd fds[] = {{answers_, wanted, 0}, {writing ? requests_ : -1, POLLOUT, 0}};
    ::poll(fds, 2, static_cast<int>(std::min<int64_t>(left, kSliceMs)));
    if (fds[1].revents != 0) {
      n = write_quietly(requests_, request.data() + sent_, request.size() - sent_);
      if (n < 0 && !again(n)) {
        return ended();
      }
      sent_ += n > 0 ? static_cast<size_t>(n) : 0;
    }
    if (fds[0].revents != 0 && writing) {
      return ended();
    }
    if (fds[0].revents != 0) {
      n = ::read(answers_, buffer, sizeof buffer);
      if (n == 0 || (n < 0 && !again(n))) {
        return ended();
      }
      std::string_view piece(buffer, n > 0 ? static_cast<size_t>(n) : 0);
      size_t newline = piece.find('\n');
      answer.append(piece.substr(0, newline));
      if (answer.size() > max_bytes) {
        return too_large();
      }
      if (newline != std::string_view::npos) {
        return answer;
      }
    }
  }
}

}  // namespace os
