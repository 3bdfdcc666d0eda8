#include "src/study/hardware_record.h"

#include <cmath>
#include <optional>

namespace study {
namespace {

base::Json number_or_null(double value) {
  return std::isfinite(value) ? base::Json(value) : base::Json(nullptr);
}

template <class T>
base::Json or_null(const std::optional<T>& value) {
  return value ? base::Json(*value) : base::Json(nullptr);
}

}  // namespace

base::Json to_json(const os::HardwareState& state) {
  base::Json gpus = base::Json::array();
  for (const os::GpuState& gpu : state.gpus) {
    gpus.push_back({{"name", gpu.name},
                    {"temperature_c", or_null(gpu.temperature_c)},
                    {"sm_mhz", or_null(gpu.sm_mhz)},
                    {"sm_mhz_max", or_null(gpu.sm_mhz_max)},
                    {"memory_used", or_null(gpu.memory_used)},
                    {"memory_total", or_null(gpu.memory_total)},
                    {"slow_reasons", or_null(gpu.slow_reasons)}});
  }
  return {{"temperature_c", number_or_null(state.temperature_c)},
          {"cpu_mhz_min", number_or_null(state.cpu_mhz_min)},
          {"cpu_mhz_max", number_or_null(state.cpu_mhz_max)},
          {"cpu_mhz_limit", number_or_null(state.cpu_mhz_limit)},
          {"cpu_mhz_capable", number_or_null(state.cpu_mhz_capable)},
          {"cpu_cooling", state.cpu_cooling},
          {"thermal_throttles", or_null(state.thermal_throttles)},
          {"cgroup_throttled_us", or_null(state.cgroup_throttled_us)},
          {"gpus", std::move(gpus)}};
}

base::Json hardware_record(const os::HardwareState& before, const os::HardwareState& after) {
  std::vector<std::string> found = os::throttling(before, after);
  return {{"before", to_json(before)},
          {"after", to_json(after)},
          {"throttled", !found.empty()},
          {"throttling", found}};
}

}  // namespace study
