#include "src/study/hardware_record.h"

#include <doctest/doctest.h>

#include <limits>

TEST_CASE("hw: unreadable is null, and throttling is said in words") {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  os::HardwareState before{kNan, 800, 3000, kNan, kNan, 4, 0, std::nullopt, {}};
  os::HardwareState after = before;
  os::GpuState gpu;
  gpu.name = "H200";
  gpu.memory_used = 7;
  after.gpus = {gpu};
  base::Json calm = study::hardware_record(before, after);
  CHECK(calm["before"]["temperature_c"].is_null());
  CHECK(calm["before"]["cpu_mhz_max"] == 3000);
  CHECK(calm["before"]["cgroup_throttled_us"].is_null());
  CHECK(calm["before"]["gpus"] == base::Json::array());
  CHECK(calm["after"]["gpus"][0]["memory_used"] == 7);
  CHECK(calm["after"]["gpus"][0]["temperature_c"].is_null());
  CHECK(calm["throttled"] == false);
  after.thermal_throttles = 9;
  base::Json hot = study::hardware_record(before, after);
  CHECK(hot["throttled"] == true);
  CHECK(hot["throttling"][0] == "the CPU throttled itself for heat 5 times");
}
