#include "src/study/memory_wait.h"

#include <doctest/doctest.h>

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20, kGiB = uint64_t{1} << 30;

}  // namespace

TEST_CASE("what a candidate held is its own memory, not its mapped weights") {
  os::MemoryTrace trace;
  trace.total = 128 * kGiB;
  trace.available_before = 120 * kGiB;
  trace.available_min = 118 * kGiB;
  trace.rss_peak = 100 * kGiB;
  trace.rss_file_peak = 95 * kGiB;
  CHECK_EQ(study::memory_held(trace), 5 * kGiB);
  trace.available_min = 20 * kGiB;  // a GPU took it: in no process's RSS
  CHECK_EQ(study::memory_held(trace), 100 * kGiB);
  CHECK_EQ(study::memory_held({}), 0);
}

TEST_CASE("the wait for memory ends when it is back, when it stands still, or when time is up") {
  study::MemoryWait wait;
  wait.available_before = 100 * kGiB;
  int readings = 0;

  wait.held = 10 * kMiB;  // nothing worth a wait
  auto waited = study::wait_for_memory(wait, [&] {
    ++readings;
    return 10 * kGiB;
  });
  CHECK_EQ(readings, 1);
  CHECK(waited.back);
  CHECK_EQ(waited.available, 10 * kGiB);

  wait.held = 40 * kGiB;
  readings = 0;
  waited =
      study::wait_for_memory(wait, [&] { return 60 * kGiB + static_cast<uint64_t>(readings++) * 8 * kGiB; });
  CHECK(waited.back);
  CHECK_EQ(readings, 6);
  CHECK_EQ(waited.available, 100 * kGiB);

  wait.plateau_s = 0.05;
  waited = study::wait_for_memory(wait, [] { return 60 * kGiB; });
  CHECK_FALSE(waited.back);
  CHECK(waited.waited_s >= 0.05);

  wait.plateau_s = 1000;
  wait.held = 200 * kMiB;
  wait.gib_per_s = 1000;
  waited = study::wait_for_memory(wait, [] { return 60 * kGiB; });
  CHECK_FALSE(waited.back);
  CHECK(waited.waited_s >= 2);
}
