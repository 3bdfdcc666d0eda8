#include "src/os/host.h"

#include <sched.h>

#include <dirent.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <set>

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

// The text of one file of this process's cgroup and of each one above it.
std::vector<std::string> in_cgroups(const char* name) {
  std::vector<std::string> texts;
  auto text = read_file("/proc/self/cgroup", 1 << 20);
  std::optional<std::string> group = text ? parse_cgroup(*text) : std::nullopt;
  while (group) {
    if (auto found = read_file("/sys/fs/cgroup" + (*group == "/" ? "" : *group) + "/" + name, 1 << 14)) {
      texts.push_back(std::move(*found));
    }
    if (*group == "/" || group->empty()) {
      break;
    }
    group->resize(group->rfind('/'));
  }
  return texts;
}

// The tightest CPU quota, infinity without one.
double cgroup_cpus() {
  double cpus = std::numeric_limits<double>::infinity();
  for (const std::string& limit : in_cgroups("cpu.max")) {
    cpus = std::min(cpus, parse_cpu_max(limit).value_or(cpus));
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
  for (const GpuState& gpu : read_gpus()) {
    facts.gpus.push_back(gpu.name);
  }
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

std::optional<uint64_t> read_cgroup_throttled_us() {
  std::optional<uint64_t> sum;
  for (const std::string& text : in_cgroups("cpu.stat")) {
    if (auto time = parse_throttled_us(text)) {
      sum = sum.value_or(0) + *time;
    }
  }
  return sum;
}

uint64_t lockable_memory() {
  constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max(), kIpcLock = uint64_t{1} << 14;
  constexpr std::string_view kField = "\nCapEff:\t";
  const auto status = read_file("/proc/self/status", 1 << 16);
  if (size_t at = status ? status->find(kField) : std::string::npos; at != std::string::npos) {
    uint64_t capabilities = 0;
    std::from_chars(status->data() + at + kField.size(), status->data() + status->size(), capabilities, 16);
    if ((capabilities & kIpcLock) != 0) {
      return kNoLimit;
    }
  }
  rlimit limit{};
  return ::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ? kNoLimit
                                                                                     : limit.rlim_cur;
}

uint64_t cgroup_memory_limit() {
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (const std::string& text : in_cgroups("memory.max")) {
    uint64_t limit = 0;
    auto [rest, bad] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (bad == std::errc() && limit > 0) {  // else "max"
      least = std::min(least, limit);
    }
  }
  return least;
}

}  // namespace os
