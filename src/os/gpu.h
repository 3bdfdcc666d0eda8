#pragma once
// GPUs as nvidia-smi and the kernel's amdgpu driver describe them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace os {

struct GpuState {  // nullopt: not known, or (memory) shared with the host
  std::string name;
  std::optional<double> temperature_c, sm_mhz, sm_mhz_max;
  std::optional<uint64_t> memory_used, memory_total;  // bytes
  std::optional<uint64_t> slow_reasons;               // nvidia-smi's clocks_event_reasons.active
};

// One line per GPU of `nvidia-smi --query-gpu=` name, temperature.gpu, clocks.sm, clocks.max.sm, memory.used,
// memory.total and perhaps the reasons, in csv,noheader,nounits. A line of another form is left out.
std::vector<GpuState> parse_gpus(std::string_view csv);

// Empty where there is none. nvidia-smi is given 10 s, and the question that its version understands.
std::vector<GpuState> read_gpus();

// The reasons that are trouble (heat, the power brake, hardware slowdown), in words; "" when none of them is set. A
// power cap or an idle GPU is no trouble.
std::string slow_reasons_text(uint64_t reasons);

}  // namespace os
