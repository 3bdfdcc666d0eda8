#pragma once
// A file that lies in memory and goes away with its owner.

#include <string>

#include "src/base/error.h"

namespace os {

class MemoryFile {
 public:
  // memfd_create(2). `name` shows in /proc alone.
  static base::Result<MemoryFile> create(const std::string& name);
  MemoryFile(MemoryFile&& other) noexcept;
  MemoryFile& operator=(MemoryFile&& other) noexcept;
  ~MemoryFile();

  // What this process may open it by; mappings of it outlive the file.
  std::string path() const;

 private:
  MemoryFile() = default;
  int fd_ = -1;
};

}  // namespace os
