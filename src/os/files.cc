#include "src/os/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "src/os/fd.h"

namespace os {
namespace {

std::string parent_of(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) {
    return ".";
  }
  return slash == 0 ? "/" : path.substr(0, slash);
}

// errno of the first failing write, or 0.
int write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return n < 0 ? errno : EIO;
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

// A new name in a directory is durable only once the directory itself is synced. Some file systems refuse
// fsync on directories (EINVAL); they have no way to do better.
int sync_directory(const std::string& directory) {
  Fd dir{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (dir.fd < 0) {
    return errno;
  }
  return ::fsync(dir.fd) != 0 && errno != EINVAL ? errno : 0;
}

const char* write_advice(int errno_value) {
  switch (errno_value) {
    case ENOSPC:
    case EDQUOT:
      return "free some space, or write to another disk";
    case EROFS:
    case EACCES:
    case EPERM:
      return "choose a place that you may write to";
    default:
      return "";
  }
}

}  // namespace

base::Result<std::string> read_head(const std::string& path, uint64_t max_bytes) {
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) {
    return base::sys_error(path, "cannot be opened", errno, errno == ENOENT ? "check the path" : "");
  }
  struct stat info {};
  if (::fstat(file.fd, &info) == 0 && S_ISDIR(info.st_mode)) {
    return base::error(path, "is a directory", "name a file");
  }
  std::string content;
  if (info.st_size > 0) {
    content.reserve(static_cast<size_t>(std::min<uint64_t>(static_cast<uint64_t>(info.st_size), max_bytes)));
  }
  char buffer[1 << 16];
  while (content.size() < max_bytes) {
    ssize_t n = ::read(file.fd, buffer, std::min<uint64_t>(sizeof buffer, max_bytes - content.size()));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return base::sys_error(path, "cannot be read", errno);
    }
    if (n == 0) {
      break;
    }
    content.append(buffer, static_cast<size_t>(n));
  }
  return content;
}

base::Result<std::string> read_file(const std::string& path, uint64_t max_bytes) {
  auto content =
      read_head(path, std::max(max_bytes, max_bytes + 1));  // one more tells a file that is too large
  if (content && content->size() > max_bytes) {
    return base::error(path, fmt::format("is larger than {} bytes", max_bytes),
                       "check that it is the right file");
  }
  return content;
}

base::Result<void> replace_file(const std::string& path, std::string_view bytes) {
  const std::string part = fmt::format("{}.{}.part", path, ::getpid());  // two writers may meet
  Fd file{::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
  if (file.fd < 0) {
    return base::sys_error(path, "cannot be written", errno, write_advice(errno));
  }
  int failed = write_all(file.fd, bytes);
  if (failed == 0 && ::fsync(file.fd) != 0) {
    failed = errno;
  }
  if (failed == 0 && ::rename(part.c_str(), path.c_str()) != 0) {
    failed = errno;
  }
  if (failed != 0) {
    ::unlink(part.c_str());
    return base::sys_error(path, "cannot be written", failed, write_advice(failed));
  }
  if (failed = sync_directory(parent_of(path)); failed != 0) {
    return base::sys_error(path, "is written, but its directory cannot be synced", failed);
  }
  return {};
}

base::Result<void> make_directories(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code || !std::filesystem::is_directory(path, code)) {
    int value = code ? code.value() : ENOTDIR;
    return base::sys_error(path, "cannot be made a directory", value, write_advice(value));
  }
  return {};
}

bool file_exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

std::string read_tail(const std::string& path, size_t max_bytes) {
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return "";
  }
  auto size = static_cast<uint64_t>(info.st_size);
  uint64_t offset = size > max_bytes ? size - max_bytes : 0;
  std::string tail(static_cast<size_t>(size - offset), '\0');
  size_t got = 0;
  while (got < tail.size()) {
    ssize_t n = ::pread(file.fd, tail.data() + got, tail.size() - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      break;  // it shrank under us: what we have is the tail
    }
    got += static_cast<size_t>(n);
  }
  tail.resize(got);
  return tail;
}

std::string program_directory() {
  char buffer[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", buffer, sizeof buffer);
  return n <= 0 ? "." : parent_of(std::string(buffer, static_cast<size_t>(n)));
}

std::string find_in_path(std::string_view name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  if (name.empty() || name.find('/') != std::string_view::npos) {
    return "";
  }
  for (bool more = true; more;) {
    size_t colon = rest.find(':');
    std::string_view directory = rest.substr(0, colon);
    more = colon != std::string_view::npos;
    rest.remove_prefix(more ? colon + 1 : rest.size());
    std::string candidate = fmt::format("{}/{}", directory.empty() ? "." : directory, name);
    struct stat info {};
    if (::stat(candidate.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return "";
}

base::Result<AppendFile> AppendFile::open(const std::string& path, bool* locked) {
  bool unused = false;
  bool& taken = locked != nullptr ? *locked : unused;
  taken = false;
  bool existed = file_exists(path);
  Fd file{::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)};
  if (file.fd < 0) {
    return base::sys_error(path, "cannot be opened for writing", errno, write_advice(errno));
  }
  if (::flock(file.fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      taken = true;
      return base::error(path, "locked by another process",
                         "wait for the other run to end, or name another file");
    }
    return base::sys_error(path, "cannot be locked", errno, "use a local file system");
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) {
    return base::sys_error(path, "cannot be examined", errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return base::error(path, "is not a regular file", "name a file");
  }
  if (!existed) {
    if (int failure = sync_directory(parent_of(path)); failure != 0) {
      return base::sys_error(parent_of(path), "cannot be synced", failure);
    }
  }
  AppendFile result;
  result.fd_ = std::exchange(file.fd, -1);
  result.size_ = static_cast<uint64_t>(info.st_size);
  result.path_ = path;
  return result;
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), path_(std::move(other.path_)) {}

AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

base::Result<void> AppendFile::append(std::string_view bytes) {
  int failure = write_all(fd_, bytes);
  if (failure == 0 && ::fdatasync(fd_) != 0) {
    failure = errno;
  }
  if (failure != 0) {
    // A full disk leaves half a line: take it back, so that the file ends where its last whole line does.
    bool restored = ::ftruncate(fd_, static_cast<off_t>(size_)) == 0 && ::fsync(fd_) == 0;
    return base::sys_error(path_, restored ? "cannot be appended to" : "cannot be appended to nor restored",
                           failure, write_advice(failure));
  }
  size_ += bytes.size();
  return {};
}

base::Result<void> AppendFile::truncate(uint64_t size) {
  AR_CHECK(size <= size_, "truncate() must not grow a journal");
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0 || ::fsync(fd_) != 0) {
    return base::sys_error(path_, "cannot be truncated", errno, write_advice(errno));
  }
  size_ = size;
  return {};
}

}  // namespace os
