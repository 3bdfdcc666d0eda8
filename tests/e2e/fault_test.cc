// Whatever a server does, its trial ends in a status of its own and the study goes on; whatever the disk does, the
// journal stays whole.

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <thread>

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

// Slow enough for a clock on a busy host: a burst of tokens would be implausible, not a fault of the script.
constexpr const char* kGoal =
    "objective: {maximize: [decode_tps], subject_to: [quality >= 0.5]}\n"
    "search: {strategy: grid, max_trials: 40}\n";

// Serves on the port that the candidate was given, as somebody else's server would: not a child of the driver.
class Stranger {
 public:
  explicit Stranger(std::string port_file) : port_file_(std::move(port_file)) {
    thread_ = std::thread([this] { watch(); });
  }
  ~Stranger() {
    stop_ = true;
    thread_.join();
  }
  int served() const { return served_; }

 private:
  void watch() {
    std::vector<std::unique_ptr<e2e::Process>> servers;
    while (!stop_) {
      if (std::string port = e2e::read(port_file_); !port.empty()) {
        std::filesystem::remove(port_file_);
        port.resize(port.find('\n'));
        servers.push_back(std::make_unique<e2e::Process>());
        servers.back()->spawn({e2e::program("fake-server"), "--port", port, "-m", "model.bin"});
        ++served_;
      }
      e2e::nap_ms(5);
    }
  }
  std::string port_file_;
  std::atomic<bool> stop_{false};
  std::atomic<int> served_{0};
  std::thread thread_;
};

// Whether a tmpfs of a few MiB could be mounted there; only root may.
class SmallDisk {
 public:
  explicit SmallDisk(std::string where) : where_(std::move(where)) {
    std::filesystem::create_directories(where_);
    mounted_ = ::mount("tmpfs", where_.c_str(), "tmpfs", 0, "size=80m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) {
      ::umount2(where_.c_str(), MNT_DETACH);
    }
  }
  bool mounted() const { return mounted_; }
  bool make_read_only() const {
    return ::mount("tmpfs", where_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=80m") == 0;
  }

 private:
  std::string where_;
  bool mounted_ = false;
};

constexpr const char* kFourAxis = "  n_threads: {values: [1, 2, 3, 4], default: 1}\n";
constexpr const char* kPlainGoal =
    "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 4}\n";

void wait_for_ends(const e2e::Driver& driver, const std::string& journal, size_t wanted) {
  for (int i = 0; i < 4000; ++i) {
    std::string text = e2e::read(journal);
    size_t ends = 0;
    for (size_t at = 0; (at = text.find("\"type\":\"trial_end\"", at)) != std::string::npos; ++at) {
      ++ends;
    }
    if (ends >= wanted || driver.pid() < 0) {
      return;
    }
    e2e::nap_ms(5);
  }
}

}  // namespace

TEST_CASE("every fault ends in its own status, and the study goes on") {
  if (!e2e::programs_exist()) {
    return;
  }
  const std::map<std::string, std::string> expected = {
      {"ok", "ok"},
      {"hang-at-load", "load_timeout"},
      {"503-forever", "load_timeout"},
      {"exit-during-load", "load_crash"},
      {"oom", "oom"},
      {"killed-for-memory", "load_crash"},
      {"crash-mid-probe", "run_crash"},
      {"garbage-json", "run_crash"},
      {"cut-off", "run_crash"},
      {"healthy-but-dead", "hang"},
      {"endless-thinking", "quality_fail"},
      {"ignore-sigterm", "ok"},
      {"fork-away", "load_crash"},
      {"stranger", "load_crash"},
      {"wrong-model", "config_mismatch"},
      {"too-fast", "implausible"},
      {"cached", "implausible"},
  };
  e2e::Driver driver;
  std::string names;
  for (const auto& entry : expected) {
    names += (names.empty() ? "" : ", ") + entry.first;
  }
  std::string space =
      driver.scripted_space("  fault: {values: [" + names + "], default: ok, env: FAKE_SERVER_BEHAVIOUR}\n",
                            R"({"decode_tps": 200, "port_file": ")" + driver.path("port") + "\"}", kGoal);
  Stranger stranger(driver.path("port"));
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK(driver.all_gone(1));
  CHECK_GE(stranger.served(), 1);
  std::map<std::string, std::string> seen;
  for (const Json& end : driver.ends("j.jsonl")) {
    std::string fault = end["params"]["fault"];
    seen[fault] = end["status"].get<std::string>();
    CAPTURE(fault);
    bool early = end["status"] == "quality_fail" || end["status"] == "pruned";  // what was measured stays
    CHECK((early || end.contains("metrics") == (end["status"] == "ok")));
    if (end["status"] != "ok") {
      CHECK_GT(end["reason"].get<std::string>().size(), 10);
    }
  }
  CHECK_EQ(seen.size(), expected.size());
  for (const auto& outcome : expected) {
    const auto& fault = outcome.first;
    const auto& status = outcome.second;
    CAPTURE(fault);
    CHECK_EQ(seen[fault], status);
  }
}

TEST_CASE("a server that is changed in place may fail in every way, and the study goes on") {
  if (!e2e::programs_exist()) {
    return;
  }
  // n_threads -> what the server does once it is asked to run so.
  const std::map<int, std::pair<std::string, std::string>> expected = {
      {1, {"{}", "ok"}},
      {2, {R"({"decode_tps": 190})", "ok"}},
      {3, {R"({"reconfigure_behaviour": "refuse"})", "ok"}},
      {4, {R"({"reconfigure_behaviour": "fail"})", "ok"}},
      {5, {R"({"reconfigure_behaviour": "die"})", "ok"}},
      {6, {R"({"behaviour": "oom"})", "oom"}},
      {7, {R"({"behaviour": "crash-mid-probe", "after_requests": 1})", "run_crash"}},
      {8, {R"({"behaviour": "healthy-but-dead"})", "hang"}},
      {9, {R"({"behaviour": "too-fast"})", "implausible"}},
      {10, {R"({"behaviour": "exit-during-load"})", "load_crash"}},
      {11, {R"({"reconfigure_behaviour": "hang"})", "ok"}},
      {12, {R"({"n_ctx": 512})", "config_mismatch"}},
      {13, {"{}", "ok"}},
      {14, {"{}", "ok"}},
  };
  std::string values, rules;
  for (const auto& entry : expected) {
    const std::string threads = std::to_string(entry.first);
    values += (values.empty() ? "" : ", ") + threads;
    rules += (rules.empty() ? "" : ", ") + std::string(R"({"when": {"threads": )") + threads +
             R"(}, "set": )" + entry.second.first + "}";
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(
      "  n_threads: {values: [" + values + "], default: 1}\n  ctx_size: {values: [2048], default: 2048}\n",
      R"({"decode_tps": 200, "numerics": true, "reconfigure": ["n_threads", "ctx_size"], "rules": [)" +
          rules + "]}",
      kGoal);
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK(driver.all_gone(1));
  std::map<int, std::string> seen;
  int in_place = 0;
  for (const Json& end : driver.ends("j.jsonl")) {
    seen[end["params"]["n_threads"].get<int>()] = end["status"].get<std::string>();
    in_place += end["status"] == "ok" && end["cold"] == false ? 1 : 0;
  }
  CHECK_EQ(seen.size(), expected.size());
  for (const auto& entry : expected) {
    const int threads = entry.first;
    CAPTURE(threads);
    CHECK_EQ(seen[threads], entry.second.second);
  }
  CHECK_GE(in_place, 2);  // at least those after a healthy one
}

TEST_CASE("a file that can no longer grow stops the run; the journal is whole and can be resumed") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kFourAxis, R"({"decode_tps": 200, "load_s": 0.2})", kPlainGoal);
  auto former = ::signal(SIGXFSZ, SIG_IGN);  // inherited: write() fails instead, as on a full disk
  driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  ::signal(SIGXFSZ, former);
  wait_for_ends(driver, driver.path("j.jsonl"), 1);
  rlimit limit{};
  limit.rlim_cur = limit.rlim_max = std::filesystem::file_size(driver.path("j.jsonl")) + 100;
  REQUIRE_EQ(::prlimit(driver.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  e2e::Result result = driver.wait();
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 5);
  CHECK(has(result.err, "j.jsonl"));
  CHECK(has(result.err, "too large"));
  CHECK(driver.all_gone(1));
  size_t finished = driver.ends("j.jsonl").size();
  CHECK_GE(finished, 1);
  CHECK_LT(finished, 4);
  CHECK_EQ(e2e::read(driver.path("j.jsonl")).back(), '\n');
  CHECK_EQ(driver.run({"resume", driver.path("j.jsonl"), "--confirm", "0"}).code, 10);
  CHECK_EQ(driver.ends("j.jsonl").size(), 4);
}

TEST_CASE("a full disk stops the run with a clear error; with room again, resume finishes the study") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  SmallDisk disk(driver.path("disk"));
  if (!disk.mounted()) {
    MESSAGE("no tmpfs can be mounted here (not root): skipped");
    return;
  }
  const std::string journal = driver.path("disk/j.jsonl"), filler = driver.path("disk/filler");
  std::string space = driver.scripted_space(kFourAxis, R"({"decode_tps": 200, "load_s": 0.2})", kPlainGoal);
  driver.start({"run", "--space", space, "--out", journal, "--confirm", "0"});
  wait_for_ends(driver, journal, 1);
  e2e::write(filler, std::string(100u << 20, 'x'));  // as much of it as there is room for
  e2e::Result result = driver.wait();
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 5);
  CHECK(has(result.err, "No space left"));
  CHECK(driver.all_gone(1));
  size_t finished = driver.ends("disk/j.jsonl").size();
  CHECK_GE(finished, 1);
  CHECK_LT(finished, 4);
  std::filesystem::remove(filler);
  CHECK_EQ(driver.run({"resume", journal, "--confirm", "0"}).code, 10);
  CHECK_EQ(driver.ends("disk/j.jsonl").size(), 4);
}

TEST_CASE("a results directory that cannot be written stops the run before the first launch") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string results = driver.path("results");
  SmallDisk disk(results);
  bool read_only = disk.mounted() && disk.make_read_only();
  if (!read_only && ::geteuid() != 0) {
    read_only = ::chmod(results.c_str(), 0555) == 0;
  }
  if (!read_only) {
    MESSAGE("no directory can be made read-only here: skipped");
    return;
  }
  std::string space = driver.scripted_space(kFourAxis, R"({"decode_tps": 200})", kPlainGoal);
  e2e::Result result = driver.run({"run", "--space", space, "--out", results + "/j.jsonl"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK((result.code == 3 || result.code == 5));
  CHECK(has(result.err, results));
  CHECK((has(result.err, "Read-only") || has(result.err, "Permission denied")));
  CHECK_FALSE(std::filesystem::exists(results + "/j.jsonl"));
}
