#include "src/engine/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "src/base/units.h"

namespace engine {

base::Result<Arena> Arena::allocate(uint64_t bytes, const std::string& purpose) {
  constexpr uint64_t kSmallPage = 4096;
  bytes = std::max(bytes, kSmallPage);
  void* data = MAP_FAILED;
  if (bytes <= static_cast<uint64_t>(std::numeric_limits<ptrdiff_t>::max())) {
    data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  } else {
    errno = ENOMEM;
  }
  if (data == MAP_FAILED) {
    return base::sys_error(purpose, fmt::format("cannot allocate {}", base::format_bytes(bytes)), errno,
                           "lower --ctx-size or --ubatch-size, or use a smaller cache type");
  }
  ::madvise(data, bytes, MADV_HUGEPAGE);
  Arena arena;
  arena.bytes_ = {static_cast<std::byte*>(data), bytes};
  // Touched now, so that memory runs out here and not in the middle of an answer.
  for (uint64_t at = 0; at < bytes; at += kSmallPage) {
    *static_cast<volatile std::byte*>(arena.data() + at) = std::byte{0};
  }
  return arena;
}

Arena::Arena(Arena&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

Arena::~Arena() {
  if (bytes_.data() != nullptr) {
    ::munmap(bytes_.data(), bytes_.size());
  }
}

}  // namespace engine
