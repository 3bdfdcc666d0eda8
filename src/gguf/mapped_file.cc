#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "src/gguf/gguf.h"

namespace gguf {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

base::Result<size_t> regular_size(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    return base::sys_error(path, "cannot read the file's size", errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return base::error(path, "not a regular file", "give the path of a .gguf file");
  }
  if (info.st_size == 0) {
    return base::error(path, "the file is empty", "download it again");
  }
  return static_cast<size_t>(info.st_size);
}

base::Error cannot_open(const std::string& path, int errno_value) {
  return base::sys_error(path, "cannot open the model file", errno_value,
                         "check the path and its permissions");
}

}  // namespace

base::Result<MappedFile> MappedFile::open(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    return cannot_open(path, errno);
  }
  auto size = regular_size(fd.get(), path);
  if (!size) {
    return size.failure();
  }
  void* data = ::mmap(nullptr, *size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) {
    return base::sys_error(path, "cannot map the file", errno,
                           "try --no-mmap, or copy it to a local file system");
  }
  MappedFile file;
  file.bytes_ = {static_cast<const std::byte*>(data), *size};
  return file;
}

base::Result<MappedFile> MappedFile::read(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    return cannot_open(path, errno);
  }
  auto size = regular_size(fd.get(), path);
  if (!size) {
    return size.failure();
  }
  void* data = ::mmap(nullptr, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return base::sys_error(path, "not enough memory to hold the file", errno, "use mmap, or a smaller model");
  }
  MappedFile file;
  file.bytes_ = {static_cast<const std::byte*>(data), *size};
  size_t done = 0;
  while (done < *size) {
    const size_t piece = std::min<size_t>(*size - done, size_t{64} << 20);
    const ssize_t got =
        ::pread(fd.get(), static_cast<std::byte*>(data) + done, piece, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return base::sys_error(path, "reading the file failed", errno, "check the disk");
    }
    if (got == 0) {
      return base::error(path, "the file became shorter while it was read", "wait until it is complete");
    }
    done += static_cast<size_t>(got);
  }
  ::mprotect(data, *size, PROT_READ);  // a stray write should fault, as it would in a mapping of the file
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes_.data() != nullptr) {
    ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

}  // namespace gguf
