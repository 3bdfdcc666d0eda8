#pragma once
// FNV-1a, 64 bits: tells things apart in keys and records. No protection against somebody who wants a collision.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace base {

inline constexpr uint64_t kFnvOffset = 0xcbf29ce484222325;

// Of the bytes after those that `hash` is of.
constexpr uint64_t fnv1a(std::string_view bytes, uint64_t hash = kFnvOffset) {
  for (const char c : bytes) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return hash;
}

inline uint64_t fnv1a(std::span<const std::byte> bytes, uint64_t hash = kFnvOffset) {
  return fnv1a(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), hash);
}

}  // namespace base
