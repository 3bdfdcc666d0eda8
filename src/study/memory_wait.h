#pragma once
// After a stop: until what the candidate held is available again, so that the next launch is not judged by the
// last one's memory.

#include <cstdint>
#include <functional>

#include "src/os/child.h"

namespace study {

// What the candidate itself held. Mapped weights do not count: MemAvailable takes their pages for free while they
// are in use. What left MemAvailable without being in its RSS counts (a GPU that shares the host's memory) where it
// is over a twentieth of the machine; less may be anybody's.
uint64_t memory_held(const os::MemoryTrace& trace);

struct MemoryWait {
  uint64_t available_before = 0;  // the launch
  uint64_t held = 0;              // memory_held() of its trace
  double plateau_s = 1;           // no rise for so long: the rest is somebody else's
  double gib_per_s = 1;           // the slowest release worth waiting for, beside two seconds
};
struct MemoryWaited {
  uint64_t available = 0;
  double waited_s = 0;
  bool back = true;  // false: given up, with `available` far below what was there before
};
// Reads `available` (os::read_meminfo().available, or a test's) until it is back, stands still or the time is up.
// Nothing worth waiting for: one reading. Ends early when the user stops the run.
MemoryWaited wait_for_memory(const MemoryWait& wait, const std::function<uint64_t()>& available);

}  // namespace study
