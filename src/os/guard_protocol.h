#pragma once
// What driver (child.cc) and guard (guard.cc) say to each other over one SOCK_SEQPACKET socket pair. Both
// ends are the same binary, so the messages are plain structs.

#include <string>
#include <type_traits>
#include <vector>

#include "src/os/child.h"

namespace os::guard {

inline constexpr int kControlFd = 3;  // the guard's end of the pair, inherited
inline constexpr const char* kLaunchVariable = "AUTORESEARCH_LAUNCH";
inline constexpr size_t kSpecChunk =
    32 << 10;  // the spec travels as its size (uint64_t), then in pieces of this

// What the guard needs to know to start the candidate; a sequence of length-prefixed strings on the wire, so
// that nothing of it (keys in the environment above all) shows in a process list.
struct Spec {
  std::string program;            // the file to exec
  std::vector<std::string> argv;  // as the candidate sees it
  std::vector<std::string> set_env, unset_env;
  std::string log_path;
  uint64_t max_log_bytes = 0;
  uint64_t min_headroom_bytes = 0;
  double sample_hz = 5;
  int oom_score_adj = 0;
  bool own_stdin = false, own_stdout = false;  // the guard's own are meant for the candidate
};
std::string encode(const Spec& spec);
bool decode(std::string_view bytes, Spec& spec);

// Driver -> guard.
struct Command {
  enum Kind : int { kStop = 1, kKill, kMemory, kRestartTrace } kind = kKill;
  double grace_s = 0;
};

// Guard -> driver. kStarted or kFailed once; kExit once; kGone when no descendant is left; kMemory as the
// answer to kMemory. Every message carries the latest trace.
struct Report {
  enum Kind : int { kStarted = 1, kFailed, kExit, kGone, kMemory } kind = kStarted;
  enum Stage : int { kNone = 0, kLog, kFork, kExec } stage = kNone;  // of kFailed
  int error = 0;                                                     // errno of kFailed
  pid_t pid = 0;
  ChildExit exit;
  MemoryTrace trace;
};
static_assert(std::is_trivially_copyable_v<Report> && std::is_trivially_copyable_v<Command>);

}  // namespace os::guard
