#pragma once
// /proc readers: memory, pressure, processes, sockets. Text parsers are pure and tested on literal samples.

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace os {

struct MemInfo {  // bytes
  uint64_t total = 0, available = 0, free = 0, swap_total = 0, swap_free = 0;
  uint64_t file_lru =
      0;  // active + inactive file pages: all that MemAvailable can count as reclaimable cache
};
std::optional<MemInfo> parse_meminfo(std::string_view text);
MemInfo read_meminfo();

// PSI memory "full": the time in which every task that wanted to run stood still for memory.
struct MemoryPressure {
  double avg10 = 0;       // percent of the last ten seconds
  uint64_t total_us = 0;  // since boot
};
std::optional<MemoryPressure> parse_psi_full(std::string_view text);
MemoryPressure read_psi_full();  // zeros where the kernel has no PSI

// Counters of /proc/vmstat since boot, in pages; 0 where the kernel has them not. A refault is a page that was
// thrown out and is wanted back.
struct VmCounters {
  uint64_t refaults_file = 0, refaults_anon = 0, swap_in = 0, swap_out = 0;
};
VmCounters parse_vmstat(std::string_view text);
VmCounters read_vm_counters();

// Resident bytes of one process from /proc/PID/status (counters, no page walk): total, file-backed, and the most of
// the file-backed pages that the kernel may drop: less what is locked by mlock and cannot be anonymous or shared memory.
struct ProcessMemory {
  uint64_t rss = 0, rss_file = 0, evictable = 0;
};
std::optional<ProcessMemory> parse_process_status(std::string_view text);
std::optional<ProcessMemory> read_process_memory(pid_t pid);

// One mapping of a file, from a line of /proc/PID/maps: which file, and which bytes of it.
struct FileRange {
  std::string device;  // "08:01"
  uint64_t inode = 0, begin = 0, end = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes what is compared with for a null pointer
  auto operator<=>(const FileRange&) const = default;
};
// Appends them; mappings of devices and of memory without a file on a disk are left out. False: the text has none.
bool parse_file_ranges(std::string_view maps, std::vector<FileRange>& ranges);
// Bytes of files that they cover, what several cover once.
uint64_t covered_bytes(std::vector<FileRange> ranges);
// How often processes that map the same files have counted its pages more than once, at least, in bytes: their `evictable`
// together less all that they have mapped. Reads /proc/PID/maps (no page walk); 0 where one cannot be read.
uint64_t counted_twice(const std::vector<pid_t>& pids);

// One line of /proc/PID/stat. The command name may hold blanks and parentheses.
struct ProcStat {
  pid_t pid = 0, ppid = 0;
  char state = '?';
  uint64_t start_ticks = 0;
  // Page faults that waited for a disk: its own, and those of the children it has waited for.
  uint64_t major_faults = 0, child_major_faults = 0;
};
std::optional<ProcStat> parse_proc_stat(std::string_view text);
// Clock ticks since boot at which the process started: with the pid it names one process for ever.
std::optional<uint64_t> process_start_ticks(pid_t pid);
// Every live descendant of a process (zombies left out), children before their parents.
std::vector<pid_t> descendants(pid_t root);
// Major faults of these processes and of the children they have waited for; those that are gone count nothing.
uint64_t major_faults(const std::vector<pid_t>& pids);

// Every process whose environment (as it was at exec) has the variable, with its value.
std::vector<std::pair<pid_t, std::string>> processes_with_variable(std::string_view name);

// Inodes of the sockets that listen on `port` of loopback or of every address, from /proc/net/tcp or tcp6
// text.
std::vector<uint64_t> parse_listening_inodes(std::string_view text, int port);
// The pid that owns the listening TCP socket on 127.0.0.1/0.0.0.0/[::1]/[::]:port, searched among `candidate`
// and its descendants; nullopt when none of them does, or when somebody else listens on that port as well
// (SO_REUSEPORT: requests would go to either).
std::optional<pid_t> listening_owner(int port, pid_t candidate);
// A port of 127.0.0.1 nobody listens on now.
base::Result<int> free_port();

// Changes at every boot.
std::string boot_id();

}  // namespace os
