#include "src/os/service.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "src/os/files.h"
#include "tests/os/scratch.h"

namespace {

// A systemctl that keeps one unit's state in a file and writes down what it was asked, first in PATH.
class FakeSystemctl {
 public:
  explicit FakeSystemctl(const char* state) {
    std::string bin = scratch_ / "systemctl";
    std::ofstream(bin) << "#!/bin/sh\n"
                       << "D=" << (scratch_ / "") << "\n"
                       << R"(echo "$*" >> "$D/calls"
case "$2" in
  is-active) cat "$D/state"
    if [ -e "$D/next" ]; then head -n 1 "$D/next" > "$D/state"; sed -i 1d "$D/next"; [ -s "$D/next" ] || rm "$D/next"; fi ;;
  stop) if [ -e "$D/deaf" ]; then echo "Job timed out." >&2; exit 1; fi; echo inactive > "$D/state" ;;
  start) sleep 0.2; echo active > "$D/state" ;;
esac
)";
    ::chmod(bin.c_str(), 0755);
    set_state(state);
    old_path_ = std::getenv("PATH");
    ::setenv("PATH", ((scratch_ / "") + ":" + old_path_).c_str(), 1);
    ::setenv("XDG_RUNTIME_DIR", (scratch_ / "").c_str(), 1);
  }
  ~FakeSystemctl() {
    ::setenv("PATH", old_path_.c_str(), 1);
    ::unsetenv("XDG_RUNTIME_DIR");
  }
  FakeSystemctl(const FakeSystemctl&) = delete;
  FakeSystemctl& operator=(const FakeSystemctl&) = delete;

  void set_state(const std::string& state) { std::ofstream(scratch_ / "state") << state << "\n"; }
  // What later questions are answered, one line each.
  void then(const std::string& states) { std::ofstream(scratch_ / "next") << states; }
  void be_deaf() { std::ofstream(scratch_ / "deaf") << "x"; }
  std::string state() const {
    std::string text = os::read_tail(scratch_ / "state", 100);
    return text.substr(0, text.find('\n'));
  }
  int calls(const std::string& what) const {
    std::ifstream in(scratch_ / "calls");
    int n = 0;
    for (std::string line; std::getline(in, line);) {
      n += line == what ? 1 : 0;
    }
    return n;
  }

 private:
  Scratch scratch_;
  std::string old_path_;
};

bool eventually(const std::function<bool()>& condition) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

constexpr const char* kUnit = "llm-test.service";

}  // namespace

TEST_CASE("the words of systemctl is-active") {
  using os::UnitState;
  CHECK(os::parse_unit_state("active\n") == UnitState::kActive);
  CHECK(os::parse_unit_state("activating\n") == UnitState::kActive);
  CHECK(os::parse_unit_state("deactivating\n") == UnitState::kEnding);
  CHECK(os::parse_unit_state("inactive\n") == UnitState::kInactive);
  CHECK(os::parse_unit_state("failed\n") == UnitState::kInactive);
  CHECK(os::parse_unit_state("") == UnitState::kUnknown);
  CHECK(os::parse_unit_state("Failed to connect to bus\n") == UnitState::kUnknown);
}

TEST_CASE("an active service is stopped, and started again at the end") {
  FakeSystemctl fake("active");
  {
    auto held = os::HeldService::stop(kUnit, AR_TEST_HELPER);
    REQUIRE(held.ok());
    CHECK(held->held());
    CHECK_EQ(fake.state(), "inactive");
    CHECK_EQ(fake.calls("--user start llm-test.service"), 0);
  }
  // The destructor has waited for it.
  CHECK_EQ(fake.state(), "active");
  CHECK_EQ(fake.calls("--user start llm-test.service"), 1);
}

TEST_CASE("a service that restarts is waited for and then stopped; one that ends stays alone") {
  FakeSystemctl fake("deactivating");
  fake.then("deactivating\ninactive\nactivating\nactive\n");
  {
    auto held = os::HeldService::stop(kUnit, AR_TEST_HELPER);
    REQUIRE(held.ok());
    CHECK(held->held());
    CHECK_EQ(fake.calls("--user stop llm-test.service"), 1);
  }
  fake.set_state("deactivating");
  fake.then("inactive\n");
  auto held = os::HeldService::stop(kUnit, AR_TEST_HELPER);
  REQUIRE(held.ok());
  CHECK_FALSE(held->held());
  CHECK_EQ(fake.calls("--user stop llm-test.service"), 1);
}

TEST_CASE("a service that does not run is left alone; one that cannot be asked or stopped is an error") {
  FakeSystemctl fake("inactive");
  {
    auto held = os::HeldService::stop(kUnit, AR_TEST_HELPER);
    REQUIRE(held.ok());
    CHECK_FALSE(held->held());
  }
  CHECK_EQ(fake.calls("--user stop llm-test.service"), 0);
  CHECK_EQ(fake.calls("--user start llm-test.service"), 0);
  fake.set_state("");
  auto unknown = os::HeldService::stop(kUnit, AR_TEST_HELPER);
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.failure().to_string().find(kUnit) != std::string::npos);
  fake.set_state("active");
  fake.be_deaf();
  auto deaf = os::HeldService::stop(kUnit, AR_TEST_HELPER);
  REQUIRE_FALSE(deaf.ok());
  CHECK(deaf.failure().to_string().find("Job timed out.") != std::string::npos);
  CHECK(
      eventually([&] { return fake.calls("--user start llm-test.service") == 1; }));  // half stopped, perhaps
}

TEST_CASE("kill -9 restores the service, once, and a run that resumes at once waits for that") {
  FakeSystemctl fake("active");
  for (int round = 1; round <= 3; ++round) {
    int ready[2];
    REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
    pid_t driver = ::fork();
    if (driver == 0) {
      auto held = os::HeldService::stop(kUnit, AR_TEST_HELPER);
      char byte = held.ok() && held->held() ? 'y' : 'n';
      if (::write(ready[1], &byte, 1) == 1) {
        ::pause();
      }
      ::_exit(1);
    }
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
    ::close(ready[1]);
    CHECK_EQ(byte, 'y');
    CHECK_EQ(fake.state(), "inactive");
    ::kill(driver, SIGKILL);
    ::waitpid(driver, nullptr, 0);
    // The next driver, while the watcher is still at it: the lock makes it wait until the unit is back, so that it
    // sees it active and stops it itself.
    auto next = os::HeldService::stop(kUnit, AR_TEST_HELPER);
    REQUIRE(next.ok());
    CHECK(next->held());
    CHECK_EQ(fake.calls("--user start llm-test.service"), 2 * round - 1);
    CHECK(next->restore().ok());
    CHECK_FALSE(next->held());
    CHECK_EQ(fake.calls("--user start llm-test.service"), 2 * round);
    CHECK_EQ(fake.state(), "active");
  }
}
