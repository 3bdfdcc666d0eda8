// The state of the hardware now, and what slowed it down between two states.

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "src/os/files.h"
#include "src/os/host.h"

namespace os {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int kMostZones = 64, kMostCoolers = 512;

std::string first_line(const std::string& path) {
  auto text = read_file(path, 1 << 20);
  return text ? text->substr(0, text->find('\n')) : "";
}

double number_in(const std::string& path) {
  std::string text = first_line(path);
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  return end == text.c_str() ? kNan : value;
}

void widen(double value, double& low, double& high) {
  if (value > 0) {
    low = low < value ? low : value;  // NaN compares false: the first value is taken
    high = high > value ? high : value;
  }
}

void read_cpus(HardwareState& state) {
  double ignored = kNan;
  const long cpus = sysconf(_SC_NPROCESSORS_CONF);
  for (long cpu = 0; cpu < cpus; ++cpu) {
    const std::string directory = fmt::format("/sys/devices/system/cpu/cpu{}/", cpu);
    widen(number_in(directory + "cpufreq/scaling_cur_freq") / 1000, state.cpu_mhz_min, state.cpu_mhz_max);
    widen(number_in(directory + "cpufreq/scaling_max_freq") / 1000, ignored, state.cpu_mhz_limit);
    widen(number_in(directory + "cpufreq/cpuinfo_max_freq") / 1000, ignored, state.cpu_mhz_capable);
    for (const char* counter : {"core_throttle_count", "package_throttle_count"}) {
      double events = number_in(directory + "thermal_throttle/" + counter);
      if (events >= 0) {
        state.thermal_throttles = state.thermal_throttles.value_or(0) + static_cast<uint64_t>(events);
      }
    }
  }
  if (state.cpu_mhz_max > 0) {
    return;
  }
  // Virtual machines have no cpufreq, but x86 prints a clock per core.
  auto text = read_file("/proc/cpuinfo", 16 << 20);
  for (size_t at = text ? text->find("cpu MHz") : std::string::npos; at != std::string::npos;
       at = text->find("cpu MHz", at + 1)) {
    size_t colon = text->find(':', at);
    if (colon != std::string::npos) {
      widen(std::strtod(text->c_str() + colon + 1, nullptr), state.cpu_mhz_min, state.cpu_mhz_max);
    }
  }
}

// Arm has no counters; what its kernel does against heat shows in the cooling devices.
int active_cpu_cooling() {
  int active = 0;
  for (int device = 0; device < kMostCoolers; ++device) {
    const std::string directory = fmt::format("/sys/class/thermal/cooling_device{}/", device);
    const std::string type = first_line(directory + "type");
    if (type.empty()) {
      break;
    }
    bool cpu = type.find("cpufreq") != std::string::npos || type == "Processor";
    active += cpu && number_in(directory + "cur_state") > 0 ? 1 : 0;
  }
  return active;
}

}  // namespace

HardwareState read_hardware_state() {
  HardwareState state{kNan, kNan, kNan, kNan, kNan, std::nullopt, 0, std::nullopt, {}};
  double coldest = kNan;
  for (int zone = 0; zone < kMostZones; ++zone) {
    widen(number_in(fmt::format("/sys/class/thermal/thermal_zone{}/temp", zone)) / 1000, coldest,
          state.temperature_c);
  }
  read_cpus(state);
  state.cpu_cooling = active_cpu_cooling();
  state.cgroup_throttled_us = read_cgroup_throttled_us();
  state.gpus = read_gpus();
  return state;
}

std::optional<uint64_t> parse_throttled_us(std::string_view cpu_stat) {
  constexpr std::string_view kName = "throttled_usec ";
  for (size_t at = 0; at < cpu_stat.size();) {
    size_t end = std::min(cpu_stat.find('\n', at), cpu_stat.size());
    std::string_view line = cpu_stat.substr(at, end - at);
    if (line.starts_with(kName)) {
      uint64_t value = 0;
      auto [rest, bad] = std::from_chars(line.data() + kName.size(), line.data() + line.size(), value);
      return bad == std::errc() && rest == line.data() + line.size() ? std::optional(value) : std::nullopt;
    }
    at = end + 1;
  }
  return std::nullopt;
}

std::vector<std::string> throttling(const HardwareState& before, const HardwareState& after) {
  std::vector<std::string> found;
  if (before.thermal_throttles && after.thermal_throttles &&
      *after.thermal_throttles > *before.thermal_throttles) {
    found.push_back(fmt::format("the CPU throttled itself for heat {} times",
                                *after.thermal_throttles - *before.thermal_throttles));
  }
  if (after.cpu_cooling > 0) {
    found.push_back(fmt::format("{} cooling devices held CPUs back", after.cpu_cooling));
  }
  constexpr double kSmallest = 0.98;                             // governors round
  if (after.cpu_mhz_limit < kSmallest * before.cpu_mhz_limit) {  // false for NaN
    found.push_back(fmt::format("the highest CPU clock fell from {:.0f} to {:.0f} MHz", before.cpu_mhz_limit,
                                after.cpu_mhz_limit));
  }
  constexpr uint64_t kNoticeableUs = 10'000;
  if (before.cgroup_throttled_us && after.cgroup_throttled_us &&
      *after.cgroup_throttled_us > *before.cgroup_throttled_us + kNoticeableUs) {
    found.push_back(
        fmt::format("the cgroup's CPU quota took {:.2f} s",
                    static_cast<double>(*after.cgroup_throttled_us - *before.cgroup_throttled_us) * 1e-6));
  }
  for (const GpuState& gpu : after.gpus) {
    if (std::string why = slow_reasons_text(gpu.slow_reasons.value_or(0)); !why.empty()) {
      found.push_back(fmt::format("{}: {}", gpu.name, why));
    }
  }
  return found;
}

}  // namespace os
