#include "src/os/pipe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "src/os/fd.h"
#include "src/os/files.h"

namespace os {

base::Result<std::string> read_file_or_pipe(const std::string& path, double patience_s, uint64_t max_bytes) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
    return read_file(path, max_bytes);
  }
  if (!S_ISFIFO(info.st_mode)) {
    return base::error(path, "is neither a file nor a pipe", "name a file");
  }
  Fd pipe{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)};  // does not wait for a writer
  if (pipe.fd < 0) {
    return base::sys_error(path, "cannot be opened", errno);
  }
  std::string content;
  char buffer[1 << 16];
  while (content.size() <= max_bytes) {
    pollfd ready{pipe.fd, POLLIN, 0};
    const int found = ::poll(&ready, 1, static_cast<int>(patience_s * 1000));
    if (found < 0 && errno == EINTR) {
      continue;
    }
    if (found <= 0) {
      return base::error(path, fmt::format("is a pipe that gave nothing for {:g} s", patience_s),
                         "name a file, or a pipe that something writes to");
    }
    const ssize_t n = ::read(pipe.fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      continue;
    }
    if (n < 0) {
      return base::sys_error(path, "cannot be read", errno);
    }
    if (n == 0) {
      return content;
    }
    content.append(buffer, static_cast<size_t>(n));
  }
  return base::error(path, fmt::format("is larger than {} bytes", max_bytes),
                     "check that it is the right file");
}

}  // namespace os
