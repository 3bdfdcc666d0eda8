#include "src/os/memory_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace os {

base::Result<MemoryFile> MemoryFile::create(const std::string& name) {
  MemoryFile file;
  file.fd_ = ::memfd_create(name.c_str(), MFD_CLOEXEC);
  if (file.fd_ < 0) {
    return base::sys_error(name, "no file in memory can be made", errno, "check ulimit -n");
  }
  return file;
}

MemoryFile::MemoryFile(MemoryFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

MemoryFile& MemoryFile::operator=(MemoryFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

MemoryFile::~MemoryFile() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

std::string MemoryFile::path() const {
  return fmt::format("/proc/self/fd/{}", fd_);
}

}  // namespace os
