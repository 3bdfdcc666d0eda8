#pragma once
// What a tree of processes has done so far: to tell one that works from one that only waits.

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace os {

struct Activity {
  double cpu_s = 0;         // user and system time of the live processes
  uint64_t read_bytes = 0;  // fetched from storage, page faults on mapped files included
  uint64_t rss_bytes = 0;   // resident now
};
// Of `root` and its live descendants, summed; what cannot be read counts as nothing.
Activity read_activity(pid_t root);

// Pure pieces: user + system ticks of a /proc/PID/stat line, read_bytes of /proc/PID/io.
std::optional<uint64_t> parse_cpu_ticks(std::string_view stat);
std::optional<uint64_t> parse_read_bytes(std::string_view io);

}  // namespace os
