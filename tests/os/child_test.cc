#include "src/os/child.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "src/os/files.h"
#include "src/os/proc.h"
#include "tests/os/scratch.h"

namespace {

using Clock = std::chrono::steady_clock;

bool alive(pid_t pid) {
  // No stream: reading the file of a process that ended after the open fails, and an iterator throws then.
  auto text = os::read_file("/proc/" + std::to_string(pid) + "/stat");
  auto parsed = os::parse_proc_stat(text.ok() ? *text : "");
  return parsed && parsed->state != 'Z';
}

template <class F>
bool eventually(double seconds, F condition) {
  auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (Clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

os::LaunchSpec helper(const Scratch& scratch, std::vector<std::string> arguments) {
  os::LaunchSpec spec;
  spec.argv = {AR_TEST_HELPER};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.log_path = scratch / "log";
  spec.guard_program = AR_TEST_HELPER;
  return spec;
}

std::vector<pid_t> pids_in(const std::string& log) {
  std::vector<pid_t> pids;
  std::istringstream in(log);
  for (std::string word; in >> word;) {
    pid_t pid = 0;
    if (word == "pid" && in >> pid) {
      pids.push_back(pid);
    }
  }
  return pids;
}

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

}  // namespace

TEST_CASE("exit codes and signals come back exactly") {
  Scratch scratch;
  auto ended = os::GuardedChild::launch(helper(scratch, {"exit", "42"}));
  REQUIRE(ended.ok());
  auto exit = (*ended)->wait(5);
  REQUIRE(exit.has_value());
  CHECK(exit->to_string() == "exit code 42");
  auto crashed = os::GuardedChild::launch(helper(scratch, {"die", std::to_string(SIGUSR2)}));
  REQUIRE(crashed.ok());
  exit = (*crashed)->wait(5);
  REQUIRE(exit.has_value());
  CHECK(exit->by_signal);
  CHECK(exit->to_string() == "killed by SIGUSR2");
}

TEST_CASE("what cannot be run is an error before launch returns") {
  Scratch scratch;
  auto launch = [&](const std::string& program, const std::string& log = "") {
    os::LaunchSpec spec = helper(scratch, {});
    spec.argv = {program};
    if (!log.empty()) {
      spec.log_path = log;
    }
    auto child = os::GuardedChild::launch(spec);
    REQUIRE_FALSE(child.ok());
    return child.failure().to_string();
  };
  CHECK(launch("no-such-program-xyz").find("not found in PATH") != std::string::npos);
  CHECK(launch("/no/such/program").find("No such file") != std::string::npos);
  std::ofstream(scratch / "plain") << "text";
  CHECK(launch(scratch / "plain").find("not an executable file") != std::string::npos);
  std::ofstream(scratch / "script") << "#!/no/such/interpreter\n";
  ::chmod((scratch / "script").c_str(), 0755);
  CHECK(launch(scratch / "script").find("interpreter") != std::string::npos);
  std::ofstream(scratch / "garbage") << "\x01\x02 not a program";
  ::chmod((scratch / "garbage").c_str(), 0755);
  CHECK(launch(scratch / "garbage").find("no program for this machine") != std::string::npos);
  CHECK(launch(AR_TEST_HELPER, "/no/such/directory/log").find("log cannot be opened") != std::string::npos);
}

TEST_CASE("the candidate inherits nothing it should not") {
  Scratch scratch;
  int leak = ::open("/dev/null", O_RDONLY);  // without O_CLOEXEC
  ::setenv("AR_TEST_UNSET", "visible", 1);
  os::LaunchSpec spec = helper(scratch, {"facts"});
  spec.env = {{"AR_TEST_SET", "a b=c"}};
  spec.unset_env = {"AR_TEST_UNSET"};
  spec.oom_score_adj = 700;
  auto child = os::GuardedChild::launch(spec);
  ::close(leak);
  REQUIRE(child.ok());
  REQUIRE((*child)->wait(5).has_value());
  std::string log = os::read_tail(spec.log_path, 4096);
  CAPTURE(log);
  CHECK(log.find("session_leader true") != std::string::npos);
  CHECK(log.find("oom_score_adj 700") != std::string::npos);
  CHECK(log.find("fds 0,1,2\n") != std::string::npos);
  CHECK(log.find("SigBlk 0000000000000000") != std::string::npos);
  CHECK(log.find("SigIgn 0000000000000000") != std::string::npos);
  CHECK(log.find("AR_TEST_SET a b=c") != std::string::npos);
  CHECK(log.find("AR_TEST_UNSET (none)") != std::string::npos);
}

TEST_CASE("stop: TERM is enough for the willing, KILL comes for the deaf") {
  Scratch scratch;
  auto willing = os::GuardedChild::launch(helper(scratch, {"tree", "0"}));
  REQUIRE(willing.ok());
  auto start = Clock::now();
  CHECK((*willing)->stop(5).to_string() == "killed by SIGTERM");
  CHECK(seconds_since(start) < 1);
  auto deaf = os::GuardedChild::launch(helper(scratch, {"ignore-term"}));
  REQUIRE(deaf.ok());
  REQUIRE(eventually(5, [&] { return os::read_tail(scratch / "log", 100) == "ready\n"; }));
  start = Clock::now();
  CHECK((*deaf)->stop(0.2).to_string() == "killed by SIGKILL");
  CHECK(seconds_since(start) > 0.35);
  CHECK(seconds_since(start) < 2);
  CHECK_FALSE(alive((*deaf)->pid()));
}

TEST_CASE("a tree of deaf orphans in sessions of their own goes with the candidate") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"tree", "5"}));
  REQUIRE(child.ok());
  REQUIRE(eventually(5, [&] { return pids_in(os::read_tail(scratch / "log", 4096)).size() == 5; }));
  auto pids = pids_in(os::read_tail(scratch / "log", 4096));
  SUBCASE("by stop") {
    (*child)->stop(0.1);
  }
  SUBCASE("by the destructor") {
    child->reset();
  }
  SUBCASE("by the candidate's own death") {
    ::kill((*child)->pid(), SIGKILL);
    auto exit = (*child)->wait(5);
    REQUIRE(exit.has_value());
    CHECK(exit->left_behind == 5);
    (*child)->stop(0);
  }
  for (pid_t pid : pids) {
    CHECK_FALSE(alive(pid));
  }
}

TEST_CASE("a server that forks away is seen to end, and what it left is killed") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"fork-away"}));
  REQUIRE(child.ok());
  auto exit = (*child)->wait(5);
  REQUIRE(exit.has_value());
  CHECK(exit->to_string() == "exit code 0, leaving 1 process behind");
  CHECK((*child)->stop(1).code == 0);  // idempotent, and the exit is still the first one
  auto pids = pids_in(os::read_tail(scratch / "log", 4096));
  REQUIRE(pids.size() == 1);
  CHECK_FALSE(alive(pids[0]));
}

TEST_CASE("kill -9 of the driver leaves no process after a second") {
  for (int round = 0; round < 5; ++round) {
    Scratch scratch;
    int out[2];
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    pid_t driver = ::fork();
    if (driver == 0) {
      ::dup2(out[1], 1);
      ::execl(AR_TEST_HELPER, AR_TEST_HELPER, "launch", (scratch / "log").c_str(), AR_TEST_HELPER, "tree",
              "4", nullptr);
      ::_exit(127);
    }
    ::close(out[1]);
    char buffer[64] = {};
    REQUIRE(::read(out[0], buffer, sizeof buffer - 1) > 0);
    ::close(out[0]);
    std::istringstream line(buffer);
    pid_t candidate = 0, guard = 0;
    line >> candidate >> guard;
    REQUIRE(guard > 0);
    if (round > 0) {  // in round 0 the tree is still being made when the driver dies
      REQUIRE(eventually(5, [&] { return pids_in(os::read_tail(scratch / "log", 4096)).size() == 4; }));
    }
    ::kill(driver, SIGKILL);
    auto start = Clock::now();
    auto pids = pids_in(os::read_tail(scratch / "log", 4096));
    pids.push_back(candidate);
    pids.push_back(guard);
    CHECK(eventually(1, [&] { return std::none_of(pids.begin(), pids.end(), alive); }));
    MESSAGE("gone after ", seconds_since(start) * 1000, " ms");
    pids = pids_in(os::read_tail(scratch / "log", 4096));  // and those that were born meanwhile
    CHECK(
        eventually(1 - seconds_since(start), [&] { return std::none_of(pids.begin(), pids.end(), alive); }));
    ::waitpid(driver, nullptr, 0);
  }
}

TEST_CASE("kill -9 of the guard takes the candidate and its tree along") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"ignore-term"}));
  REQUIRE(child.ok());
  ::kill((*child)->guard_pid(), SIGKILL);
  auto exit = (*child)->wait(5);
  REQUIRE(exit.has_value());
  CHECK(exit->guard_lost);
  CHECK(eventually(1, [&] { return !alive((*child)->pid()); }));
}

TEST_CASE("the guard survives the signals a terminal or an impatient user sends") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"tree", "0"}));
  REQUIRE(child.ok());
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    ::kill((*child)->guard_pid(), signal);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(alive((*child)->guard_pid()));
  CHECK_FALSE((*child)->poll().has_value());
  CHECK(::getsid((*child)->pid()) == (*child)->pid());
  CHECK(::getsid((*child)->guard_pid()) != ::getsid(0));  // neither is in our session: no Ctrl-C reaches them
}

TEST_CASE("memory is sampled at 5 Hz or more, and the floor kills at once") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"allocate", "256"}));
  REQUIRE(child.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  os::MemoryTrace trace = (*child)->memory();
  CHECK(trace.samples >= 6);
  CHECK(trace.total > 0);
  CHECK(trace.rss_peak > (250u << 20));
  CHECK(trace.headroom_min <= trace.available_before);
  CHECK((*child)->stop(1).by_signal);
  CHECK((*child)->memory().available_now > 0);

  if (os::read_meminfo().available < (2ull << 30)) {
    MESSAGE("skipped: under 2 GiB of memory available");
    return;
  }
  os::LaunchSpec spec = helper(scratch, {"allocate", "4096"});
  spec.min_headroom_bytes =
      os::read_meminfo().available - (512ull << 20);  // half a GiB from here to the floor
  auto start = Clock::now();
  auto greedy = os::GuardedChild::launch(spec);
  REQUIRE(greedy.ok());
  auto exit = (*greedy)->wait(10);
  REQUIRE(exit.has_value());
  CHECK(exit->memory_guard);
  CHECK(exit->to_string() == "killed by the memory guard");
  CHECK((*greedy)->memory().rss_peak < (3ull << 30));
  CHECK(seconds_since(start) < 8);
}

TEST_CASE("many launches leave no descriptor and no zombie") {
  Scratch scratch;
  auto count = [](const char* path) {
    return std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator());
  };
  auto before = count("/proc/self/fd");
  for (int i = 0; i < 20; ++i) {
    auto child = os::GuardedChild::launch(helper(scratch, {"tree", "1"}));
    REQUIRE(child.ok());
  }
  CHECK(count("/proc/self/fd") == before);
  CHECK(os::descendants(::getpid()).empty());
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // not even a zombie
}

TEST_CASE("a log that grows over its limit is emptied, with a note, and goes on") {
  Scratch scratch;
  os::LaunchSpec spec = helper(scratch, {});
  spec.argv = {"sh", "-c",
               "i=0; while :; do i=$((i + 1)); echo \"line $i of a very talkative server\"; done"};
  spec.max_log_bytes = 64 << 10;
  spec.sample_hz = 100;
  auto child = os::GuardedChild::launch(spec);
  REQUIRE(child.ok());
  CHECK(eventually(20, [&] {
    // A line of the server may slip in between the emptying and the note.
    auto log = os::read_file(spec.log_path);
    size_t note = log.ok() ? log->find("autoresearch: this log passed 65536 bytes") : std::string::npos;
    return note < 4096 && log->find("of a very talkative server", note) != std::string::npos;
  }));
  (*child)->stop(0);
}

TEST_CASE("leftovers are those whose driver is gone") {
  Scratch scratch;
  auto child = os::GuardedChild::launch(helper(scratch, {"tree", "0"}));
  REQUIRE(child.ok());
  os::kill_leftovers();  // others' leftovers, perhaps; ours has a live driver
  CHECK_FALSE((*child)->wait(0.1).has_value());
  // Processes of a driver that is no more: pid 1 did not start then.
  auto orphan_of = [](const std::string& pid_namespace) {
    pid_t orphan = ::fork();
    if (orphan == 0) {
      ::setenv("AUTORESEARCH_LAUNCH", (pid_namespace + "-1-999999999999-0").c_str(), 1);
      ::execl(AR_TEST_HELPER, AR_TEST_HELPER, "ignore-term", nullptr);
      ::_exit(127);
    }
    REQUIRE(eventually(5, [&] {
      for (const auto& [pid, id] : os::processes_with_variable("AUTORESEARCH_LAUNCH")) {
        if (pid == orphan && id.starts_with(pid_namespace + "-1-")) {
          return true;
        }
      }
      return false;
    }));
    return orphan;
  };
  struct stat info {};
  REQUIRE(::stat("/proc/self/ns/pid", &info) == 0);
  pid_t ours = orphan_of(std::to_string(info.st_ino)), elsewhere = orphan_of(std::to_string(info.st_ino + 1));
  CHECK(os::kill_leftovers() >= 1);  // tests that run beside this one may leave some too
  int status = 0;
  CHECK(::waitpid(ours, &status, 0) == ours);
  CHECK(WIFSIGNALED(status));
  // Of another pid namespace: its driver may be alive there.
  ::kill(elsewhere, SIGUSR1);
  CHECK(::waitpid(elsewhere, &status, 0) == elsewhere);
  CHECK(WTERMSIG(status) == SIGUSR1);  // by this, not by a SIGKILL before it
}

TEST_CASE("run_command captures, limits and ends") {
  auto run = os::run_command({"sh", "-c", "echo out; echo err >&2; exit 3"}, 5);
  REQUIRE(run.ok());
  CHECK(run->out == "out\n");
  CHECK(run->err == "err\n");
  CHECK(run->exit.code == 3);
  CHECK_FALSE(run->timed_out);
  auto start = Clock::now();
  auto slow = os::run_command({"sh", "-c", "sleep 60 & sleep 60"}, 0.2);
  REQUIRE(slow.ok());
  CHECK(slow->timed_out);
  CHECK(seconds_since(start) < 2);
  auto holder =
      os::run_command({"sh", "-c", "sleep 60 & echo done"}, 30);  // ends, but its child holds the pipe
  REQUIRE(holder.ok());
  CHECK(holder->out == "done\n");
  CHECK_FALSE(holder->timed_out);
  CHECK(seconds_since(start) < 4);
  auto big = os::run_command({"sh", "-c", "head -c 3000000 /dev/zero"}, 10, 1000);
  REQUIRE(big.ok());
  CHECK(big->out.size() == 1000);
  CHECK(big->exit.code == 0);
  CHECK_FALSE(os::run_command({"no-such-program-xyz"}, 1).ok());
}
