#pragma once
// `hw` of a trial's record: the hardware before and after it, and whether it was slowed down meanwhile. Pure.

#include "src/base/json.h"
#include "src/os/host.h"

namespace study {

base::Json to_json(const os::HardwareState& state);
// {"before", "after", "throttled": bool, "throttling": [sentences]}
base::Json hardware_record(const os::HardwareState& before, const os::HardwareState& after);

}  // namespace study
