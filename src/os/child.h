#pragma once
// Candidate servers as child processes under a guard. This and child.cc / guard.cc are the only files that
// know fork, signals, process groups and pids.
//
// The guard is a small single-threaded process, one per launch: the candidate's parent, subreaper and memory
// watchdog. When the driver dies (its pipe closes) the guard kills every descendant. It samples memory at
// sample_hz from before the launch until after the stop, and kills the group at once when headroom falls
// below the floor.

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace os {

struct LaunchSpec {
  std::vector<std::string> argv;                         // argv[0] is looked up in PATH unless it has a slash
  std::vector<std::pair<std::string, std::string>> env;  // added to the driver's own environment
  std::vector<std::string> unset_env;                    // removed from it
  std::string log_path;                                  // stdout and stderr of the candidate
  uint64_t min_headroom_bytes = 0;                       // 0: no memory watchdog
  double sample_hz = 5;
  int oom_score_adj = 800;  // the kernel takes the candidate first
};

struct ChildExit {
  bool by_signal = false;
  int code = 0;                   // exit code, or the signal's number
  bool memory_guard = false;      // the guard killed it: headroom was below the floor
  std::string to_string() const;  // "exit code 1", "killed by SIGKILL", "killed by the memory guard"
};

// What the guard's samples saw, in bytes. Headroom = MemAvailable minus the candidate's evictable file pages
// (mmapped weights, which MemAvailable counts as free).
struct MemoryTrace {
  uint64_t total = 0, available_before = 0, available_min = 0, available_now = 0, headroom_min = 0;
  uint64_t swap_used_before = 0, swap_used_max = 0;
  uint64_t rss_peak = 0;          // of the candidate and its descendants, summed
  uint64_t rss_file_peak = 0;     // its file pages alone: resident weights
  double psi_full_avg10_max = 0;  // percent; 0 where the kernel has no PSI
  uint64_t refaults = 0;          // workingset_refault_file since the launch
  int samples = 0;
};

class GuardedChild {
 public:
  // Starts guard and candidate. Errors: the binary is missing or not executable (found out before the fork
  // returns), the log cannot be opened.
  static base::Result<std::unique_ptr<GuardedChild>> launch(const LaunchSpec& spec);
  // Kills what is left, without grace.
  ~GuardedChild();

  pid_t pid() const;  // the candidate
  pid_t guard_pid() const;
  // The exit, once the candidate has ended; does not wait.
  std::optional<ChildExit> poll();
  // Waits up to timeout_s for the exit.
  std::optional<ChildExit> wait(double timeout_s);
  // TERM, after `grace_s` TERM again, after as long KILL to every descendant; returns when none is left.
  ChildExit stop(double grace_s);
  MemoryTrace memory() const;

 private:
  GuardedChild();
  struct State;
  std::unique_ptr<State> state_;
};

// The guard's own program: main() calls it when argv[1] is kGuardCommand.
inline constexpr const char* kGuardCommand = "__guard";
int guard_main(int argc, char** argv);

// A short helper command run to its end (no guard), output captured; for `BINARY --help` and git. Killed at
// timeout_s.
struct CommandOutput {
  ChildExit exit;
  std::string out, err;
  bool timed_out = false;
};
base::Result<CommandOutput> run_command(const std::vector<std::string>& argv, double timeout_s,
                                        size_t max_output = 1 << 20);

}  // namespace os
