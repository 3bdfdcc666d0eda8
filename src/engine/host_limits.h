#pragma once
// What this machine has for one process: cores worth a thread each, and memory left.

#include <cstdint>
#include <string_view>

namespace engine {

// Distinct physical cores this process may run on; at least 1.
int physical_cores();
// MemAvailable of /proc/meminfo in bytes; the largest number where it cannot be read (then nothing is
// refused).
uint64_t available_bytes();
// The same from the text of /proc/meminfo.
uint64_t parse_available_bytes(std::string_view meminfo);

}  // namespace engine
