#pragma once
// Facts about this machine that a result depends on.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/os/gpu.h"

namespace os {

struct HostFacts {
  std::string hostname, kernel, cpu_model, arch, os_name;
  int logical_cpus = 0, physical_cores = 0;
  uint64_t memory_bytes = 0, swap_bytes = 0;
  std::vector<std::string> gpus;  // names as nvidia-smi gives them; empty where there is none
};
HostFacts read_host_facts();

// Distinct physical cores this process may run on (its affinity mask), or whole CPUs' worth of time its cgroup
// may take where that is less; at least 1.
int usable_cores();

// Parsers of what usable_cores reads. The v2 group of /proc/PID/cgroup ("/a/b"), nullopt where there is none; and
// the CPUs' worth of time that a cpu.max ("QUOTA PERIOD", "max PERIOD") gives, nullopt for no limit or nonsense.
std::optional<std::string> parse_cgroup(std::string_view text);
std::optional<double> parse_cpu_max(std::string_view text);

// Bytes that a process of ours may lock by mlock: RLIMIT_MEMLOCK, or the most a uint64_t holds where there is no limit
// (CAP_IPC_LOCK, too).
uint64_t lockable_memory();

// Bytes that this process's cgroup and those above it may use (memory.max), the most a uint64_t holds without a limit.
uint64_t cgroup_memory_limit();

// How the hardware is doing, and counters of how often it, or its cgroup, had to slow down. NaN and nullopt where
// unreadable. Reads /sys, and asks nvidia-smi where there is one (tens of milliseconds, more on a GPU nobody holds
// open): before and after a measurement, never during it.
struct HardwareState {
  double temperature_c, cpu_mhz_min, cpu_mhz_max;  // hottest thermal zone; current clocks over the cores
  double cpu_mhz_limit;                            // highest clock the cores may take now (scaling_max_freq)
  double cpu_mhz_capable;                          // and could without any limit (cpuinfo_max_freq)
  std::optional<uint64_t> thermal_throttles;       // events since boot (x86), summed over logical CPUs
  int cpu_cooling;                                 // cooling devices that hold CPUs back at this instant
  std::optional<uint64_t> cgroup_throttled_us;  // time the CPU quota has taken, this cgroup and those above
  std::vector<GpuState> gpus;
};
HardwareState read_hardware_state();

// Microseconds that CPU quotas have taken from this process's cgroup and those above it; nullopt where unreadable.
std::optional<uint64_t> read_cgroup_throttled_us();
// Of cpu.stat: "throttled_usec 123".
std::optional<uint64_t> parse_throttled_us(std::string_view cpu_stat);

// What slowed the machine down between two states, one phrase each; empty when nothing did. Pure.
std::vector<std::string> throttling(const HardwareState& before, const HardwareState& after);

}  // namespace os
