#pragma once
// Facts about this machine that a result depends on.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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

// Hottest thermal zone in degrees Celsius and current CPU clocks in MHz (min, max over cores); NaN where
// unreadable.
struct HardwareState {
  double temperature_c, cpu_mhz_min, cpu_mhz_max;
};
HardwareState read_hardware_state();

}  // namespace os
