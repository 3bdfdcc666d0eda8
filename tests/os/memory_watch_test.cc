#include "src/os/memory_watch.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <string>

#include "src/os/proc.h"
#include "tests/os/scratch.h"

using os::MemoryJudge;
using os::MemoryRule;
using os::MemorySample;

namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

MemorySample at(double t_s, double psi, uint64_t refaults, uint64_t major_faults = 0) {
  MemorySample sample;
  sample.t_s = t_s;
  sample.total = 128 * kGiB;
  sample.available = sample.headroom = 20 * kGiB;
  sample.rss = 90 * kGiB;
  sample.psi_full_avg10 = psi;
  sample.refaults_file = refaults;
  sample.major_faults = major_faults;
  return sample;
}

os::WatchLimits limits(uint64_t floor = kGiB) {
  os::WatchLimits result;
  result.min_headroom_bytes = floor;
  return result;
}

// Seconds until the judge strikes over a trace of 5 Hz, -1 when it does not in 30 s.
template <class F>
double strikes_after(const os::WatchLimits& limits, F sample_at, MemoryRule* rule = nullptr) {
  MemoryJudge judge(limits);
  for (int i = 0; i < 150; ++i) {
    MemoryRule struck = judge.judge(sample_at(i * 0.2));
    if (struck != MemoryRule::kNone) {
      if (rule != nullptr) {
        *rule = struck;
      }
      return i * 0.2;
    }
  }
  return -1;
}

uint64_t pages(double t_s, double per_s) {
  return 5'000'000 + static_cast<uint64_t>(t_s * per_s);
}

}  // namespace

TEST_CASE("headroom: what the candidate may lose is not free") {
  CHECK(os::headroom_of(100 * kGiB, 90 * kGiB, 95 * kGiB) == 10 * kGiB);
  // Eight workers of 10 GiB of file pages each, 66 GiB of them surely counted twice, in a large page cache.
  CHECK(os::headroom_of(100 * kGiB, os::evictable_of_tree(80 * kGiB, 10 * kGiB, 66 * kGiB), 90 * kGiB) ==
        86 * kGiB);
  CHECK(os::evictable_of_tree(80 * kGiB, 10 * kGiB, 0) == 80 * kGiB);          // each maps files of its own
  CHECK(os::evictable_of_tree(20 * kGiB, 12 * kGiB, 66 * kGiB) == 12 * kGiB);  // some have ended since
  // More than the page cache holds it cannot be.
  CHECK(os::headroom_of(100 * kGiB, 900 * kGiB, 95 * kGiB) == 5 * kGiB);
  CHECK(os::headroom_of(3 * kGiB, 90 * kGiB, 95 * kGiB) == 0);
}

TEST_CASE("the floor strikes at the first sample below it, and never without a floor") {
  MemoryJudge judge(limits(2 * kGiB));
  MemorySample sample = at(0, 0, 0);
  sample.headroom = 2 * kGiB;
  CHECK(judge.judge(sample) == MemoryRule::kNone);
  sample.headroom -= 1;
  CHECK(judge.judge(sample) == MemoryRule::kHeadroom);
  CHECK(MemoryJudge(limits(0)).judge(sample) == MemoryRule::kNone);
}

TEST_CASE("thrashing: pressure and refaults together, for seconds") {
  MemoryRule rule = MemoryRule::kNone;
  double after = strikes_after(
      limits(), [](double t) { return at(t, 55, pages(t, 20000)); }, &rule);
  CHECK(rule == MemoryRule::kThrashing);
  CHECK(after >= 3);
  CHECK(after <= 5);
  // Each without the other is a load from disk, a busy neighbour, or a slow device.
  CHECK(strikes_after(limits(), [](double t) { return at(t, 30, pages(t, 20000)); }) == -1);
  CHECK(strikes_after(limits(), [](double t) { return at(t, 80, pages(t, 100)); }) == -1);
  // Without a floor there is no watchdog.
  CHECK(strikes_after(limits(0), [](double t) { return at(t, 80, pages(t, 20000)); }) == -1);
  // Two seconds on, one off: never long enough.
  auto pulsing = [](double t) {
    double whole = static_cast<int>(t / 3) * 3.0, part = t - whole;
    return at(t, part < 2 ? 60 : 10, pages(t, 20000));
  };
  CHECK(strikes_after(limits(), pulsing) == -1);
  // avg10 lags: pressure still reads high, but pages come back no more.
  CHECK(strikes_after(limits(), [](double t) { return at(t, 60, pages(std::min(t, 1.9), 20000)); }) == -1);
  // Swap counts like files.
  auto swapping = [](double t) {
    MemorySample sample = at(t, 60, 7);
    sample.refaults_anon = pages(t, 5000);
    return sample;
  };
  CHECK(strikes_after(limits(), swapping) > 0);
}

TEST_CASE("a candidate that has no part in the thrashing is left alone") {
  auto small = [](double t, uint64_t own) {
    MemorySample sample = at(t, 70, pages(t, 20000), own);
    sample.rss = kGiB;
    return sample;
  };
  CHECK(strikes_after(limits(), [&](double t) { return small(t, 5); }) == -1);
  CHECK(strikes_after(limits(), [&](double t) { return small(t, static_cast<uint64_t>(t * 300)); }) > 0);
}

TEST_CASE("a trace holds extremes, and counts from its first sample") {
  MemorySample first = at(0, 0, 1000, 10), second = at(1, 12, 1500, 30), third = at(2, 3, 1600, 25);
  second.headroom = 3 * kGiB;
  second.available = 8 * kGiB;
  second.rss_file = 50 * kGiB;
  second.psi_full_us = 250'000;
  third.swap_in = 2;
  third.rss = kGiB;
  os::MemoryTrace trace;
  for (const MemorySample& sample : {first, second, third}) {
    os::extend(trace, first, sample);
  }
  CHECK(trace.samples == 3);
  CHECK(trace.total == 128 * kGiB);
  CHECK(trace.available_before == 20 * kGiB);
  CHECK(trace.available_min == 8 * kGiB);
  CHECK(trace.available_now == 20 * kGiB);
  CHECK(trace.headroom_before == 20 * kGiB);
  CHECK(trace.headroom_min == 3 * kGiB);
  CHECK(trace.rss_peak == 90 * kGiB);
  CHECK(trace.rss_file_peak == 50 * kGiB);
  CHECK(trace.psi_full_avg10_max == 12);
  CHECK(trace.refaults == 600);
  CHECK(trace.major_faults == 20);  // a child that ended unheard takes its faults along
  CHECK(trace.swap_in == 2 * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)));
  CHECK(trace.psi_full_s == 0);  // counters that went back (another boot's) are no time
}

TEST_CASE("near the floor it looks four times as often") {
  CHECK(os::sample_interval_s(5, 0, 0) == doctest::Approx(0.2));
  CHECK(os::sample_interval_s(5, kGiB, 60 * kGiB) == doctest::Approx(0.2));
  CHECK(os::sample_interval_s(5, kGiB, 3 * kGiB) == doctest::Approx(0.05));
  CHECK(os::sample_interval_s(0, kGiB, 60 * kGiB) == doctest::Approx(1));
  CHECK(os::sample_interval_s(1000, kGiB, 3 * kGiB) == doctest::Approx(0.01));
}

TEST_CASE("the reason of a strike names its rule") {
  os::ChildExit exit;
  exit.memory_guard = true;
  exit.memory_rule = MemoryRule::kHeadroom;
  os::MemoryTrace trace;
  trace.headroom_min = kGiB / 4;
  CHECK(os::memory_guard_reason(exit, trace) == "headroom fell to 0.25 GiB");
  exit.memory_rule = MemoryRule::kThrashing;
  trace.psi_full_avg10_max = 61;
  trace.refaults = 70;
  CHECK(os::memory_guard_reason(exit, trace).find("61%") != std::string::npos);
  CHECK(os::memory_guard_reason(exit, trace).find("70 pages") != std::string::npos);
}

TEST_CASE("a sample of this machine is cheap") {
  os::MemorySampler sampler(::getpid());
  for (int i = 0; i < 50; ++i) {
    MemorySample sample = sampler.take();
    REQUIRE(sample.total > sample.headroom);
  }
  MESSAGE("one sample: ", sampler.mean_us(), " us of CPU time");
  CHECK(sampler.mean_us() < 2000);  // at 5 Hz: 1% of a core
}

TEST_CASE("workers that map the same file count it once") {
  Scratch scratch;
  const std::string path = scratch / "weights";
  constexpr size_t kBytes = size_t{128} << 20;  // much more than what the test program itself has mapped
  std::ofstream(path, std::ios::binary) << std::string(kBytes, 'x');
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  void* mapped = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
  REQUIRE(mapped != MAP_FAILED);
  std::vector<pid_t> workers;
  int ready[2];
  REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
  for (int i = 0; i < 3; ++i) {
    pid_t worker = ::fork();
    if (worker == 0) {
      const volatile char* bytes = static_cast<const volatile char*>(mapped);
      for (size_t at = 0; at < kBytes; at += 4096) {
        (void)bytes[at];
      }
      if (::write(ready[1], "y", 1) == 1) {
        ::pause();
      }
      ::_exit(0);
    }
    workers.push_back(worker);
  }
  char byte = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    REQUIRE(::read(ready[0], &byte, 1) == 1);
  }
  uint64_t sum = 0;
  for (pid_t worker : workers) {
    sum += os::read_process_memory(worker)->rss_file;
  }
  const uint64_t twice = os::counted_twice(workers);
  for (pid_t worker : workers) {
    ::kill(worker, SIGKILL);
    ::waitpid(worker, nullptr, 0);
  }
  ::close(ready[0]);
  ::close(ready[1]);
  ::munmap(mapped, kBytes);
  ::close(fd);
  CHECK(sum >= 3 * kBytes);
  // Mapped but not resident (libraries, the program) may hide some of it.
  CHECK(twice >= 3 * kBytes / 2);
  CHECK(sum - twice >= kBytes);
}
