#pragma once
// A small counter-based generator (splitmix64): what it gives depends on nothing but its arguments.

#include <cstdint>

namespace base {

constexpr uint64_t mix(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0xd1342543de82ef95ULL + (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace base
