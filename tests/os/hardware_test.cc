#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "src/os/gpu.h"
#include "src/os/host.h"
#include "tests/os/scratch.h"

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

os::HardwareState quiet() {
  return {50, 1000, 3000, 3000, 3000, 10, 0, 1000, {}};
}

// A directory first in PATH, for as long as this lives.
struct FirstInPath {
  std::string before = std::getenv("PATH");
  explicit FirstInPath(const std::string& directory) {
    ::setenv("PATH", (directory + ":" + before).c_str(), 1);
  }
  ~FirstInPath() { ::setenv("PATH", before.c_str(), 1); }
};

void write_program(const std::string& path, const std::string& script) {
  std::ofstream(path) << script;
  ::chmod(path.c_str(), 0755);
}

}  // namespace

TEST_CASE("nvidia-smi's lines, with all that may be missing") {
  auto gpus = os::parse_gpus(
      "NVIDIA H200, 41, 1980, 1980, 1024, 143771, 0x0000000000000060\n"
      "NVIDIA GB10, 55, 2405, 3003, [N/A], [N/A], 0x0000000000000001\n"
      "Old card, [Not Supported], 10, 20, 1, 2\n"
      "Failed to initialize NVML: Driver/library version mismatch\n\n"
      ", 1, 2, 3, 4, 5\n");
  REQUIRE(gpus.size() == 3);
  CHECK(gpus[0].name == "NVIDIA H200");
  CHECK(gpus[0].temperature_c == 41);
  CHECK(gpus[0].sm_mhz_max == 1980);
  CHECK(gpus[0].memory_used == uint64_t{1} << 30);
  CHECK(gpus[0].memory_total == uint64_t{143771} << 20);
  CHECK(gpus[0].slow_reasons == 0x60u);
  CHECK(gpus[1].sm_mhz == 2405);
  CHECK_FALSE(gpus[1].memory_total.has_value());  // it shares the host's memory
  CHECK_FALSE(gpus[2].temperature_c.has_value());
  CHECK_FALSE(gpus[2].slow_reasons.has_value());
  CHECK(os::parse_gpus("").empty());
  CHECK(os::parse_gpus("x, -1, nan, 1e999, 9e99, 0, 0xg\n")[0].slow_reasons == std::nullopt);
}

TEST_CASE("reasons for slow clocks: heat and brakes are trouble, caps and idleness are not") {
  CHECK(os::slow_reasons_text(0x1 | 0x2 | 0x4 | 0x10).empty());
  CHECK(os::slow_reasons_text(0x8) == "hardware slowdown");
  CHECK(os::slow_reasons_text(0x60) == "software thermal slowdown, hardware thermal slowdown");
}

TEST_CASE("a driver that does not know the newer question is asked the older one") {
  Scratch scratch;
  write_program(scratch / "nvidia-smi",
                "#!/bin/sh\ncase \"$1\" in *event_reasons*) echo 'Field is not a valid field to query.'; "
                "exit 2;; esac\n"
                "echo \"$1\" >> " +
                    (scratch / "asked") + "\necho 'Test GPU, 61, 900, 1800, 10, 20, 0x20'\n");
  FirstInPath path(scratch / "");
  auto gpus = os::read_gpus();
  REQUIRE_FALSE(gpus.empty());
  CHECK(gpus.back().name == "Test GPU");
  CHECK(gpus.back().slow_reasons == 0x20u);
  os::HardwareState now = os::read_hardware_state();
  REQUIRE_FALSE(now.gpus.empty());
  CHECK(now.gpus.back().temperature_c == 61);
  auto found = os::throttling(quiet(), now);
  CHECK_FALSE(found.empty());
  CHECK(os::read_host_facts().gpus.back() == "Test GPU");
}

TEST_CASE("throttling: what grew, what is held back, and nothing else") {
  os::HardwareState before = quiet(), after = quiet();
  CHECK(os::throttling(before, after).empty());
  after.temperature_c = 99;  // hot is not yet slow
  after.cpu_mhz_max = 800;   // an idle machine clocks down
  after.cgroup_throttled_us = 5000;
  CHECK(os::throttling(before, after).empty());
  after.thermal_throttles = 13;
  after.cpu_cooling = 2;
  after.cpu_mhz_limit = 2000;
  after.cgroup_throttled_us = 1'501'000;
  os::GpuState gpu;
  gpu.name = "H200";
  gpu.slow_reasons = 0x40;
  after.gpus = {gpu};
  auto found = os::throttling(before, after);
  REQUIRE(found.size() == 5);
  CHECK(found[0] == "the CPU throttled itself for heat 3 times");
  CHECK(found[2] == "the highest CPU clock fell from 3000 to 2000 MHz");
  CHECK(found[3] == "the cgroup's CPU quota took 1.50 s");
  CHECK(found[4] == "H200: hardware thermal slowdown");
  // Counters that cannot be read say nothing.
  os::HardwareState unknown{kNan, kNan, kNan, kNan, kNan, std::nullopt, 0, std::nullopt, {}};
  CHECK(os::throttling(unknown, unknown).empty());
  CHECK(os::throttling(unknown, quiet()).empty());
}

TEST_CASE("cpu.stat and the limits of a cgroup") {
  CHECK(os::parse_throttled_us("usage_usec 5\nnr_throttled 2\nthrottled_usec 77\nnr_bursts 0\n") == 77u);
  CHECK(os::parse_throttled_us("throttled_usec 8") == 8u);
  CHECK_FALSE(os::parse_throttled_us("usage_usec 5\nthrottled_usecs 9\n").has_value());
  CHECK_FALSE(os::parse_throttled_us("throttled_usec many\n").has_value());
  CHECK_FALSE(os::parse_throttled_us("").has_value());
  CHECK(os::cgroup_memory_limit() > 0);
}
