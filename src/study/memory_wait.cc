#include "src/study/memory_wait.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "src/study/clock.h"
#include "src/study/interrupt.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kGiB = 1 << 30;
// Other processes move this much all the time.
constexpr uint64_t kNoise = uint64_t{64} << 20;

uint64_t less(uint64_t a, uint64_t b) {
  return a - std::min(a, b);
}

}  // namespace

uint64_t memory_held(const os::MemoryTrace& trace) {
  uint64_t anonymous = less(trace.rss_peak, trace.rss_file_peak);
  uint64_t missing = less(trace.available_before, trace.available_min);
  return missing > trace.total / 20 ? std::max(anonymous, missing) : anonymous;
}

MemoryWaited wait_for_memory(const MemoryWait& wait, const std::function<uint64_t()>& available) {
  MemoryWaited result;
  result.available = available();
  if (wait.held <= kNoise) {
    return result;
  }
  uint64_t slack = kNoise + wait.held / 20;
  double limit_s = 2 + static_cast<double>(wait.held) / kGiB / std::max(wait.gib_per_s, 1e-3);
  auto start = Clock::now(), risen = start;
  uint64_t highest = result.available;
  while (result.available + slack < wait.available_before) {
    if (interrupted() || seconds_since(start) > limit_s || seconds_since(risen) > wait.plateau_s) {
      result.back = false;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    result.available = available();
    if (result.available > highest + kNoise / 16) {
      highest = result.available;
      risen = Clock::now();
    }
  }
  result.waited_s = seconds_since(start);
  return result;
}

}  // namespace study
