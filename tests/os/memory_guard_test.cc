// The memory watchdog on real processes: what memory_watch_test.cc proves on literal samples.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
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

namespace {

// /proc as a host in trouble shows it, written anew every 50 ms: PSI full at `percent`, and so many pages a second
// read back. The test's own host is left in peace.
class RecordedHost {
 public:
  RecordedHost(const Scratch& scratch, double percent, uint64_t refaults_per_s)
      : directory_(scratch / "host"), percent_(percent), rate_(refaults_per_s) {
    std::filesystem::create_directories(directory_ + "/pressure");
    write();
    ::setenv("AR_TEST_HOST", directory_.c_str(), 1);
    writer_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        write();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    });
  }
  ~RecordedHost() { ::unsetenv("AR_TEST_HOST"); }
  RecordedHost(const RecordedHost&) = delete;
  RecordedHost& operator=(const RecordedHost&) = delete;

 private:
  // A reader sees the old file or the new one.
  void put(const std::string& name, const std::string& text) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path + ".new") << text;
    std::filesystem::rename(path + ".new", path);
  }
  void write() {
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    auto refaults = static_cast<uint64_t>(static_cast<double>(rate_) * seconds);
    put("meminfo",
        "MemTotal:        1048576 kB\nMemFree:           90000 kB\nMemAvailable:     700000 kB\n"
        "SwapTotal:             0 kB\nSwapFree:              0 kB\n"
        "Active(file):      50000 kB\nInactive(file):    50000 kB\n");
    put("vmstat", "workingset_refault_anon 0\nworkingset_refault_file " + std::to_string(1000 + refaults) +
                      "\npswpin 0\npswpout 0\n");
    put("pressure/memory", "some avg10=80.00 avg60=20.00 avg300=5.00 total=123456789\nfull avg10=" +
                               std::to_string(percent_) + " avg60=20.00 avg300=5.00 total=" +
                               std::to_string(100000 + static_cast<uint64_t>(seconds * 6e5)) + "\n");
  }

  std::string directory_;
  double percent_;
  uint64_t rate_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::jthread writer_;
};

}  // namespace

TEST_CASE(
    "thrashing: the guard's own loop over a recorded host strikes, and only where pages come back too") {
  Scratch scratch;
  os::LaunchSpec spec = allocating(scratch, 192);  // over an eighth of that host
  spec.min_headroom_bytes = 64 * kMiB;             // far below: the other rule has no say
  spec.sample_hz = 20;
  {
    RecordedHost host(scratch, 65, 40000);
    auto child = os::GuardedChild::launch(spec);
    REQUIRE(child.ok());
    auto exit = (*child)->wait(120);
    REQUIRE(exit.has_value());
    CHECK(exit->memory_guard);
    CHECK(exit->memory_rule == os::MemoryRule::kThrashing);
    (*child)->stop(0);
    os::MemoryTrace trace = (*child)->memory();
    CHECK(trace.total == 1024 * kMiB);
    CHECK(trace.psi_full_avg10_max == doctest::Approx(65));
    CHECK(trace.refaults > 40000);  // over a second of it, three at least
    CHECK(trace.headroom_min > spec.min_headroom_bytes);
    CHECK(os::memory_guard_reason(*exit, trace).find("the host was thrashing") == 0);
  }
  for (auto [percent, rate] : {std::pair{65.0, 100}, std::pair{20.0, 40000}}) {
    RecordedHost host(scratch, percent, static_cast<uint64_t>(rate));
    auto child = os::GuardedChild::launch(spec);
    REQUIRE(child.ok());
    CHECK_FALSE((*child)->wait(6).has_value());
    (*child)->stop(0);
  }
}
