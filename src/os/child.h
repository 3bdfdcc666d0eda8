#pragma once
// Candidate servers as child processes under a guard. This and child.cc / guard.cc / command.cc are the only
// files that start, signal or reap processes (proc.h reads about them, study/interrupt.h takes the user's signals).
//
// The guard is a small single-threaded process, one per launch: the candidate's parent, subreaper and memory
// watchdog. When the driver dies (its pipe closes) the guard kills every descendant. It samples memory at
// sample_hz from before the launch until after the stop, and kills the group at once when headroom falls
// below the floor or the host thrashes (memory_watch.h). It ignores TERM, INT and HUP: only the driver's word or death ends it.
//
// The candidate runs in a session of its own (no terminal, so no Ctrl-C), in one process group, with stdin
// from /dev/null unless it is given one, no core dumps, no inherited descriptors, default signals, and AUTORESEARCH_LAUNCH=<id> in
// its environment, by which leftovers can be found. When it ends, whatever it started is killed too.

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
  // Descriptors of the caller's that become its stdin and stdout (conversation.h); -1: /dev/null, and the log.
  int stdin_fd = -1, stdout_fd = -1;
  // A log that has grown over this is emptied, with a note, at the next sample: a server that logs all night must
  // not fill the disk. 0: no limit.
  uint64_t max_log_bytes = uint64_t{256} << 20;
  uint64_t min_headroom_bytes = 0;  // 0: no memory watchdog
  double sample_hz = 5;
  int oom_score_adj = 800;  // the kernel takes the candidate first
  // Program that calls guard_main() when argv[1] is kGuardCommand; ours, unless a test says otherwise.
  std::string guard_program = "/proc/self/exe";
};

// Why the memory guard struck.
enum class MemoryRule : int {
  kNone,
  kHeadroom,   // headroom was below the floor
  kThrashing,  // the host read back for seconds what it had just thrown out
};

struct ChildExit {
  bool by_signal = false;
  int code = 0;               // exit code, or the signal's number
  bool memory_guard = false;  // the guard killed it: by memory_rule
  MemoryRule memory_rule = MemoryRule::kNone;
  bool guard_lost = false;        // the guard itself was killed, and the candidate with it
  int left_behind = 0;            // descendants that outlived it and were killed (a server that forks away)
  std::string to_string() const;  // "exit code 1", "killed by SIGKILL", "killed by the memory guard"
};

// What the guard's samples saw, in bytes unless it says otherwise; counts are since the launch, or since the trace
// was restarted. Headroom = MemAvailable minus the candidate's evictable file pages (mmapped weights, which
// MemAvailable counts as free).
struct MemoryTrace {
  uint64_t total = 0, available_before = 0, available_min = 0, available_now = 0;
  uint64_t headroom_before = 0, headroom_min = 0;
  uint64_t swap_used_before = 0, swap_used_max = 0;
  uint64_t swap_in = 0, swap_out = 0;        // read from and written to swap by the whole host
  uint64_t rss_peak = 0;                     // of the candidate and its descendants, summed
  uint64_t rss_file_peak = 0;                // its file pages alone: resident weights
  double psi_full_avg10_max = 0;             // percent; 0 where the kernel has no PSI
  double psi_full_s = 0;                     // seconds in which every task stood still for memory
  uint64_t refaults = 0, refaults_anon = 0;  // pages of files, pages of swap, of the whole host
  uint64_t major_faults = 0;                 // of the candidate and its descendants
  int samples = 0;
  double sample_us = 0;  // CPU time of one sample, the mean
};
// Why it was killed, for people: "headroom fell to 0.21 GiB", "the host was thrashing: ...".
std::string memory_guard_reason(const ChildExit& exit, const MemoryTrace& trace);

class GuardedChild {
 public:
  // Starts guard and candidate; returns once the candidate's exec has succeeded. Errors: the binary is
  // missing or not executable, the log cannot be opened, no process could be made.
  static base::Result<std::unique_ptr<GuardedChild>> launch(const LaunchSpec& spec);
  // Kills what is left, without grace.
  ~GuardedChild();

  // All of these may be called from any thread.
  pid_t pid() const;  // the candidate
  pid_t guard_pid() const;
  // The exit, once the candidate has ended; does not wait.
  std::optional<ChildExit> poll();
  // Waits up to timeout_s for the exit.
  std::optional<ChildExit> wait(double timeout_s);
  // TERM to the group, after `grace_s` TERM again, after as long KILL to every descendant; returns when none
  // is left (or, should the kernel hold one unkillable, after another 30 s).
  ChildExit stop(double grace_s);
  // As of now while the guard lives (it samples once more), else as last reported.
  MemoryTrace memory() const;
  // Begins a new trace: peaks, minima and `before` count from now on. For a server that stays for the next trial.
  void restart_trace();

 private:
  GuardedChild();
  struct State;
  std::unique_ptr<State> state_;
};

// Kills every process that carries AUTORESEARCH_LAUNCH=<id> of a launch whose driver is gone; the number killed.
// Launches of live drivers are left alone, and so are those of drivers in another pid namespace (a container),
// whose pids say nothing here.
int kill_leftovers();

// The guard's own program: main() calls it when argv[1] is kGuardCommand. `host`: see MemorySampler.
inline constexpr const char* kGuardCommand = "__guard";
int guard_main(int argc, char** argv, const std::string& host = "/proc");

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
