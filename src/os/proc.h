#pragma once
// /proc readers: memory, pressure, processes, sockets. Text parsers are pure and tested on literal samples.

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"

namespace os {

struct MemInfo {  // bytes
  uint64_t total = 0, available = 0, free = 0, swap_total = 0, swap_free = 0;
};
std::optional<MemInfo> parse_meminfo(std::string_view text);
MemInfo read_meminfo();

// PSI memory "full" avg10 in percent.
std::optional<double> parse_psi_full_avg10(std::string_view text);

// Resident pages of one process from /proc/PID/statm-like cheap sources: total, and file-backed.
struct ProcessMemory {
  uint64_t rss = 0, rss_file = 0;
};
std::optional<ProcessMemory> read_process_memory(pid_t pid);

// Clock ticks since boot at which the process started: with the pid it names one process for ever.
std::optional<uint64_t> process_start_ticks(pid_t pid);
// Every live descendant of a process, children first.
std::vector<pid_t> descendants(pid_t root);

// The pid that owns the listening TCP socket on 127.0.0.1/0.0.0.0/[::]:port, searched among `candidates` and
// their descendants; nullopt when none of them does.
std::optional<pid_t> listening_owner(int port, pid_t candidate);
// A port of 127.0.0.1 nobody listens on now.
base::Result<int> free_port();

// Changes at every boot.
std::string boot_id();

}  // namespace os
