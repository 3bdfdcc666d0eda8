#include "src/os/host.h"

#include <sched.h>

#include <dirent.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <set>

#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/proc.h"

namespace os {
namespace {

std::string first_line(const std::string& path) {
  auto text = read_file(path, 1 << 20);
  return text ? text->substr(0, text->find('\n')) : "";
}

// The value of the first "key<blank>: value" line of /proc/cpuinfo, "" where there is none.
std::string cpuinfo_value(const std::string& text, std::string_view key) {
  size_t at = 0;
  while (at < text.size()) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    size_t colon = line.find(':');
    if (line.starts_with(key) && colon != std::string_view::npos &&
        line.find_first_not_of(" \t", key.size()) == colon) {
      size_t value = line.find_first_not_of(" \t", colon + 1);
      return value == std::string_view::npos ? "" : std::string(line.substr(value));
    }
    at = end + 1;
  }
  return "";
}

// Arm's cpuinfo has no model name, only part numbers; these are the cores of the machines we are used on.
std::string arm_cores(const std::string& text) {
  static constexpr std::pair<const char*, const char*> kParts[] = {
      {"0xd0c", "Neoverse-N1"}, {"0xd40", "Neoverse-V1"}, {"0xd49", "Neoverse-N2"},  {"0xd4f", "Neoverse-V2"},
      {"0xd85", "Cortex-X925"}, {"0xd87", "Cortex-A725"}, {"0xd42", "Cortex-A78AE"}, {"0xd0b", "Cortex-A76"}};
  std::string names;
  for (const auto& [part, name] : kParts) {
    size_t n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
      ++n;
    }
    if (n > 0) {
      names += fmt::format("{}{} x {}", names.empty() ? "" : " + ", n, name);
    }
  }
  return names;
}

std::string cpu_model() {
  auto text = read_file("/proc/cpuinfo", 16 << 20);
  if (!text) {
    return "unknown";
  }
  std::string name = cpuinfo_value(*text, "model name");
  if (name.empty()) {
    name = arm_cores(*text);
  }
  return name.empty() ? "unknown" : name;
}

// What tells a CPU's core from others; without topology (some containers) every CPU is a core of its own.
std::string core_of(int cpu) {
  std::string siblings =
      first_line(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
  return siblings.empty() ? fmt::format("cpu {}", cpu) : siblings;
}

int physical_cores() {
  std::set<std::string> cores;
  for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); ++cpu) {
    cores.insert(core_of(cpu));
  }
  return static_cast<int>(cores.size());
}

std::string os_name() {
  auto text = read_file("/etc/os-release", 1 << 20);
  if (!text) {
    return "unknown";
  }
  constexpr std::string_view kKey = "PRETTY_NAME=";
  size_t at = text->starts_with(kKey) ? 0 : text->find("\nPRETTY_NAME=");
  if (at == std::string::npos) {
    return "unknown";
  }
  at = text->find('=', at) + 1;
  std::string name = text->substr(at, text->find('\n', at) - at);
  std::erase(name, '"');
  return name;
}

std::vector<std::string> gpu_names() {
  std::vector<std::string> names;
  if (find_in_path("nvidia-smi").empty()) {
    return names;
  }
  auto run = run_command({"nvidia-smi", "--query-gpu=name", "--format=csv,noheader"}, 10);
  if (!run || run->timed_out || run->exit.by_signal || run->exit.code != 0) {
    return names;  // it also prints its errors on stdout
  }
  std::string_view rest = run->out;
  while (!rest.empty()) {
    size_t end = std::min(rest.find('\n'), rest.size());
    if (end > 0) {
      names.emplace_back(rest.substr(0, end));
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return names;
}

double number_in(const std::string& path) {
  std::string text = first_line(path);
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  return end == text.c_str() ? std::numeric_limits<double>::quiet_NaN() : value;
}

// The tightest CPU quota of this process's cgroup and those above it, infinity without one.
double cgroup_cpus() {
  double cpus = std::numeric_limits<double>::infinity();
  auto text = read_file("/proc/self/cgroup", 1 << 20);
  std::optional<std::string> group = text ? parse_cgroup(*text) : std::nullopt;
  while (group) {
    auto limit = read_file("/sys/fs/cgroup" + (*group == "/" ? "" : *group) + "/cpu.max", 1 << 10);
    if (std::optional<double> quota = limit ? parse_cpu_max(*limit) : std::nullopt) {
      cpus = std::min(cpus, *quota);
    }
    if (*group == "/" || group->empty()) {
      break;
    }
    group->resize(group->rfind('/'));
  }
  return cpus;
}

}  // namespace

HostFacts read_host_facts() {
  HostFacts facts;
  utsname names{};
  if (::uname(&names) == 0) {
    facts.hostname = names.nodename;
    facts.kernel = names.release;
    facts.arch = names.machine;
  }
  facts.os_name = os_name();
  facts.cpu_model = cpu_model();
  facts.logical_cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.physical_cores = physical_cores();
  MemInfo memory = read_meminfo();
  facts.memory_bytes = memory.total;
  facts.swap_bytes = memory.swap_total;
  facts.gpus = gpu_names();
  return facts;
}

int usable_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return 1;
  }
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) {
      cores.insert(core_of(cpu));
    }
  }
  // Rounded down: threads that wait for one another all stand still while one is out of its share.
  const double n = std::min(static_cast<double>(cores.size()), cgroup_cpus());
  return std::max(1, static_cast<int>(n));
}

std::optional<std::string> parse_cgroup(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.starts_with("0::/")) {
      return std::string(line.substr(3));
    }
    at = end + 1;
  }
  return std::nullopt;
}

std::optional<double> parse_cpu_max(std::string_view text) {
  uint64_t quota = 0, period = 0;
  const char* end = text.data() + text.size();
  auto [blank, bad_quota] = std::from_chars(text.data(), end, quota);
  if (bad_quota != std::errc() || blank == end || *blank != ' ') {
    return std::nullopt;
  }
  auto [rest, bad_period] = std::from_chars(blank + 1, end, period);
  if (bad_period != std::errc() || (rest != end && *rest != '\n') || quota == 0 || period == 0) {
    return std::nullopt;
  }
  return static_cast<double>(quota) / static_cast<double>(period);
}

HardwareState read_hardware_state() {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  HardwareState state{kNan, kNan, kNan};
  auto widen = [](double value, double& low, double& high) {
    if (value > 0) {
      low = low < value ? low : value;  // NaN compares false: the first value is taken
      high = high > value ? high : value;
    }
  };
  double coldest = kNan;
  for (int zone = 0; zone < 64; ++zone) {
    widen(number_in(fmt::format("/sys/class/thermal/thermal_zone{}/temp", zone)) / 1000, coldest,
          state.temperature_c);
  }
  long cpus = sysconf(_SC_NPROCESSORS_CONF);
  for (long cpu = 0; cpu < cpus; ++cpu) {
    widen(number_in(fmt::format("/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq", cpu)) / 1000,
          state.cpu_mhz_min, state.cpu_mhz_max);
  }
  if (!(state.cpu_mhz_max > 0)) {  // virtual machines have no cpufreq, but x86 prints a clock per core
    auto text = read_file("/proc/cpuinfo", 16 << 20);
    for (size_t at = text ? text->find("cpu MHz") : std::string::npos; at != std::string::npos;
         at = text->find("cpu MHz", at + 1)) {
      size_t colon = text->find(':', at);
      if (colon != std::string::npos) {
        widen(std::strtod(text->c_str() + colon + 1, nullptr), state.cpu_mhz_min, state.cpu_mhz_max);
      }
    }
  }
  return state;
}

}  // namespace os
