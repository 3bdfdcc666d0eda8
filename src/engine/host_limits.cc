#include "src/engine/host_limits.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <utility>

namespace engine {
namespace {

int topology(int cpu, const char* name) {
  std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/{}", cpu, name));
  int value = -1;
  file >> value;
  return file ? value : -1;
}

}  // namespace

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return 1;
  }
  std::set<std::pair<int, int>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) {
      const int core = topology(cpu, "core_id");
      // Without topology (some containers) every CPU counts as a core of its own.
      cores.insert(core < 0 ? std::pair(-1, cpu) : std::pair(topology(cpu, "physical_package_id"), core));
    }
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

uint64_t parse_available_bytes(std::string_view meminfo) {
  constexpr std::string_view kKey = "MemAvailable:";
  uint64_t kib = 0;
  const size_t key = meminfo.find(kKey);
  if (key != std::string_view::npos) {
    const size_t digits = meminfo.find_first_not_of(' ', key + kKey.size());
    if (digits != std::string_view::npos &&
        std::from_chars(meminfo.data() + digits, meminfo.data() + meminfo.size(), kib).ec == std::errc() &&
        kib <= (std::numeric_limits<uint64_t>::max() >> 10)) {
      return kib << 10;
    }
  }
  return std::numeric_limits<uint64_t>::max();
}

uint64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  return parse_available_bytes(std::string(std::istreambuf_iterator<char>(file), {}));
}

}  // namespace engine
