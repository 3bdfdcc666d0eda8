#pragma once
// Files that must survive a crash: append with fsync, exclusive locks.

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/error.h"

namespace os {

// The whole file; an Error when it is missing, unreadable or larger than max_bytes.
base::Result<std::string> read_file(const std::string& path, uint64_t max_bytes = 1ULL << 30);
// Its first max_bytes at most, and no more memory than they take.
base::Result<std::string> read_head(const std::string& path, uint64_t max_bytes);
// The file has all of these bytes or is as it was before, whenever the machine stops. The Error leaves nothing behind.
base::Result<void> replace_file(const std::string& path, std::string_view bytes);
base::Result<void> make_directories(const std::string& path);
bool file_exists(const std::string& path);
// The last max_bytes of a file, "" when it cannot be read.
std::string read_tail(const std::string& path, size_t max_bytes);
// Directory of the running program (for binaries that sit beside it).
std::string program_directory();
// First executable of that name in PATH, or "" .
std::string find_in_path(std::string_view name);

// An append-only file under an exclusive lock (flock), for journals.
class AppendFile {
 public:
  // Opens or creates; fails with "locked by another process" rather than waiting. The directory is synced on
  // creation.
  // `*locked` (may be null) says whether that was it.
  static base::Result<AppendFile> open(const std::string& path, bool* locked = nullptr);
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;
  ~AppendFile();

  // Writes every byte and fsyncs, or fails leaving the file as it was before (truncated back).
  base::Result<void> append(std::string_view bytes);
  base::Result<void> truncate(uint64_t size);
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  AppendFile() = default;
  int fd_ = -1;
  uint64_t size_ = 0;
  std::string path_;
};

}  // namespace os
