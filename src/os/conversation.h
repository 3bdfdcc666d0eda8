#pragma once
// A guarded child process that answers lines: one request per line on its stdin, one answer per line on its
// stdout, stderr to its log. Every answer is bounded in time and length; after a failure the child is not to be
// trusted to be at the start of a line again, so it is ended with all its descendants.

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "src/os/child.h"

namespace os {

// What went wrong with the last question; kNone: nothing.
enum class TalkFault { kNone, kTimedOut, kTooLarge, kEnded, kCancelled };

class Conversation {
 public:
  // spec.stdin_fd and stdout_fd are set here. Errors: as GuardedChild::launch.
  static base::Result<std::unique_ptr<Conversation>> start(LaunchSpec spec);
  // Ends the child without grace.
  ~Conversation();

  // After a failed ask(): the child took nothing of that request, so it did not end because of it.
  bool unheard() const;
  // Which of the Errors of ask() it was.
  TalkFault fault() const { return fault_; }
  // False once the child has ended, as one that answers a single question does.
  bool alive() { return !child_->poll(); }
  // Sends `line` (without a newline in it) and returns the next line without its newline. What the child said before it
  // was asked is left out. Errors, with `where` the program and `next` its log: "timed out after 2m00s" (also where it
  // does not read), "answer larger than N bytes", "ended: exit code 1", "closed its output", "cancelled"; ask nothing
  // more then.
  base::Result<std::string> ask(std::string_view line, double timeout_s, size_t max_bytes,
                                const std::atomic<bool>* cancelled = nullptr);

 private:
  Conversation() = default;
  base::Error failed(TalkFault fault, std::string what);
  base::Error ended();

  std::string program_, log_path_;
  std::unique_ptr<GuardedChild> child_;
  int requests_ = -1, answers_ = -1;  // our ends of the pipes, non-blocking
  size_t sent_ = 0;                   // of the last request
  TalkFault fault_ = TalkFault::kNone;
};

}  // namespace os
