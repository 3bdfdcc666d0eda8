#include "kernels/isa.h"

#include <hwy/highway.h>
#include <hwy/targets.h>

namespace kernels {
namespace {

// The targets compiled in and usable here, best (lowest bit) first. The baseline is always usable.
int64_t usable() {
  return (hwy::SupportedTargets() & HWY_TARGETS) | HWY_STATIC_TARGET;
}

}  // namespace

const char* float_isa() {
  const int64_t targets = usable();
  return hwy::TargetName(targets & -targets);
}

std::vector<std::string> float_isas() {
  std::vector<std::string> names;
  for (int64_t targets = usable(); targets != 0; targets &= targets - 1) {
    names.emplace_back(hwy::TargetName(targets & -targets));
  }
  return names;
}

bool force_float_isa(std::string_view name) {
  hwy::SetSupportedTargetsForTest(0);
  int64_t chosen = usable();
  if (!name.empty()) {
    while (chosen != 0 && hwy::TargetName(chosen & -chosen) != name) {
      chosen &= chosen - 1;
    }
    if (chosen == 0) {
      return false;
    }
    chosen &= -chosen;
    hwy::SetSupportedTargetsForTest(chosen);
  }
  hwy::GetChosenTarget().Update(chosen);
  return true;
}

}  // namespace kernels
