// The memory watchdog on real processes: what memory_watch_test.cc proves on literal samples.
#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/proc.h"
#include "tests/os/scratch.h"

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

os::LaunchSpec allocating(const Scratch& scratch, int mib) {
  os::LaunchSpec spec;
  spec.argv = {AR_TEST_HELPER, "allocate", std::to_string(mib)};
  spec.log_path = scratch / "log";
  spec.guard_program = AR_TEST_HELPER;
  return spec;
}

template <class F>
bool eventually(double seconds, F condition) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

}  // namespace

TEST_CASE("a restarted trace begins anew, with the server in it") {
  Scratch scratch;
  os::LaunchSpec spec = allocating(scratch, 192);
  spec.sample_hz = 1;  // nearly all samples are those asked for here, however busy the machine is
  auto child = os::GuardedChild::launch(spec);
  REQUIRE(child.ok());
  REQUIRE(eventually(30, [&] { return (*child)->memory().rss_peak > 190 * kMiB; }));
  for (int i = 0; i < 20; ++i) {
    (*child)->memory();
  }
  os::MemoryTrace first = (*child)->memory();
  CHECK(first.samples > 20);
  CHECK(first.sample_us > 0);
  MESSAGE("one sample costs ", first.sample_us, " us");
  (*child)->restart_trace();
  os::MemoryTrace second = (*child)->memory();
  CHECK(second.samples >= 1);
  CHECK(second.samples < 10);
  CHECK(second.rss_peak > 190 * kMiB);  // the server is in it from the start
  CHECK(second.available_before >= second.available_min);
  CHECK(second.headroom_before >= second.headroom_min);
  (*child)->stop(1);
}

TEST_CASE("the guard strikes within two samples of the floor, and says which rule it was") {
  uint64_t available = os::read_meminfo().available;
  if (available < 3072 * kMiB) {
    MESSAGE("skipped: under 3 GiB of memory available");
    return;
  }
  Scratch scratch;
  os::LaunchSpec spec =
      allocating(scratch, 4096);  // 16 MiB every 10 ms at most: 320 MiB in four near samples
  spec.min_headroom_bytes = available - 512 * kMiB;
  auto greedy = os::GuardedChild::launch(spec);
  REQUIRE(greedy.ok());
  auto exit = (*greedy)->wait(60);
  REQUIRE(exit.has_value());
  CHECK(exit->memory_guard);
  CHECK(exit->memory_rule == os::MemoryRule::kHeadroom);
  (*greedy)->stop(0);
  os::MemoryTrace trace = (*greedy)->memory();
  CHECK(trace.rss_peak < 2048 * kMiB);
  CHECK(trace.headroom_min < spec.min_headroom_bytes);
  CHECK(os::memory_guard_reason(*exit, trace).find("headroom fell to") == 0);
  // The host has its memory back.
  CHECK(eventually(20, [&] { return os::read_meminfo().available > spec.min_headroom_bytes; }));
}
