#pragma once
// Large zeroed memory straight from the kernel, and the carving of it into aligned arrays.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/error.h"

namespace engine {

// Anonymous memory, zeroed and touched, page-aligned; released on destruction.
class Arena {
 public:
  Arena() = default;
  // `purpose` names it in errors: "KV cache".
  static base::Result<Arena> allocate(uint64_t bytes, const std::string& purpose);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();
  std::byte* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::span<std::byte> bytes_;
};

// Hands out arrays, 64-byte aligned. Without a base it only counts, so that one layout function serves
// planning and opening.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}

  template <class T>
  T* take(uint64_t n) {
    const uint64_t at = used_;
    used_ += (n * sizeof(T) + 63) / 64 * 64;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

}  // namespace engine
