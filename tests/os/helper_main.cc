// Children that behave in the ways a guard must cope with, and the guard itself (test programs have doctest's
// main).
//   __guard                      the guard; where AR_TEST_HOST names a directory, of the host recorded there
//   launch LOG ARGV...           launches ARGV under a guard, prints "CHILD GUARD", waits for ever (to be
//   kill -9'ed) tree N                       forks N grandchildren that setsid, double-fork and ignore TERM;
//   prints pids; sleeps fork-away                    double-forks a sleeper into its own session and exits 0
//   ignore-term                  sleeps, ignoring TERM
//   exit CODE | die SIGNAL       ends so
//   allocate MIB                 touches that much anonymous memory, 16 MiB at a time with pauses, then
//   sleeps facts                        prints pid, sid, oom_score_adj, open descriptors, ignored signals,
//   two variables
#include <dirent.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "src/os/child.h"
#include "src/os/memory_watch.h"
#include "src/os/service.h"

namespace {

void sleep_for_ever() {
  for (;;) {
    ::pause();
  }
}

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

// A process that nothing but the subreaper's walk can find: own session, orphaned, deaf.
void orphan() {
  if (::fork() == 0) {
    ::setsid();
    if (::fork() == 0) {
      ::setsid();
      ::signal(SIGTERM, SIG_IGN);
      ::signal(SIGHUP, SIG_IGN);
      ::clearenv();
      say(fmt::format("pid {}", ::getpid()));
      sleep_for_ever();
    }
    ::_exit(0);
  }
}

int launch(int argc, char** argv) {
  os::LaunchSpec spec;
  spec.log_path = argv[2];
  spec.argv.assign(argv + 3, argv + argc);
  auto child = os::GuardedChild::launch(spec);
  if (!child) {
    say(child.failure().to_string());
    return 1;
  }
  say(fmt::format("{} {}", (*child)->pid(), (*child)->guard_pid()));
  sleep_for_ever();
  return 0;
}

int facts() {
  DIR* dir = ::opendir("/proc/self/fd");
  std::string open;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != ::dirfd(dir)) {
      open += std::string(open.empty() ? "" : ",") + entry->d_name;
    }
  }
  ::closedir(dir);
  say("fds " + open);
  std::ifstream score("/proc/self/oom_score_adj"), status("/proc/self/status");
  std::string value, line;
  score >> value;
  say(fmt::format("session_leader {}", ::getsid(0) == ::getpid()));
  say("oom_score_adj " + value);
  while (std::getline(status, line)) {
    if (line.starts_with("SigIgn") || line.starts_with("SigBlk")) {
      say(line.substr(0, 6) + " " + line.substr(line.find_first_not_of("\t ", 7)));
    }
  }
  for (const char* name : {"AR_TEST_SET", "AR_TEST_UNSET"}) {
    const char* found = std::getenv(name);
    say(fmt::format("{} {}", name, found != nullptr ? found : "(none)"));
  }
  return 0;
}

int allocate(int mib) {
  std::vector<std::vector<char>> blocks;
  for (int done = 0; done < mib; done += 16) {
    blocks.emplace_back(16 << 20, 'x');
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  sleep_for_ever();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string command = argc > 1 ? argv[1] : "";
  if (command == os::kGuardCommand) {
    const char* host = std::getenv("AR_TEST_HOST");
    return os::guard_main(argc, argv, host == nullptr ? "/proc" : host);
  }
  if (command == os::kServiceCommand) {
    return os::service_main(argc, argv);
  }
  if (command == "launch" && argc > 3) {
    return launch(argc, argv);
  }
  if (command == "tree" && argc == 3) {
    for (int i = 0; i < std::atoi(argv[2]); ++i) {
      orphan();
    }
    sleep_for_ever();
  }
  if (command == "fork-away") {
    orphan();
    ::usleep(100000);
    return 0;
  }
  if (command == "ignore-term") {
    ::signal(SIGTERM, SIG_IGN);
    say("ready");
    sleep_for_ever();
  }
  if (command == "exit" && argc == 3) {
    return std::atoi(argv[2]);
  }
  if (command == "die" && argc == 3) {
    ::raise(std::atoi(argv[2]));
  }
  if (command == "allocate" && argc == 3) {
    return allocate(std::atoi(argv[2]));
  }
  if (command == "facts") {
    return facts();
  }
  fmt::print(stderr, "{}: unknown command\n", command);
  return 2;
}
