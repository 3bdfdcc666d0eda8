#pragma once
// A process that may map only so much more memory: what a machine short of it does to thread stacks. For the
// life of the object; restores the limit.

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace fixtures {

class LittleMemory {
 public:
  explicit LittleMemory(uint64_t more_bytes) {
    ::getrlimit(RLIMIT_AS, &before_);
    uint64_t mapped_pages = 0;
    std::ifstream("/proc/self/statm") >> mapped_pages;
    rlimit limit = before_;
    limit.rlim_cur = mapped_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + more_bytes;
    ::setrlimit(RLIMIT_AS, &limit);
  }
  // False where nobody keeps the limit (qemu's user emulation): there is nothing to test then.
  bool kept() const {
    const size_t beyond = size_t{1} << 40;
    void* map = ::mmap(nullptr, beyond, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED) {
      ::munmap(map, beyond);
    }
    return map == MAP_FAILED;
  }
  ~LittleMemory() { ::setrlimit(RLIMIT_AS, &before_); }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;

 private:
  rlimit before_{};
};

}  // namespace fixtures
