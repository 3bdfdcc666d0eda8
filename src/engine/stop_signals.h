#pragma once
// SIGTERM and SIGINT as something a program can wait for, from before its first thread.

namespace engine {

class StopSignals {
 public:
  // Blocks both signals in this thread and those it starts later; SIGPIPE is ignored.
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Waits for a signal (its number) or wake() (0).
  int wait();
  // From any thread.
  void wake() const;
  // The process ends with code 0 after that long if nothing ended it before; another SIGTERM or SIGINT kills
  // it at once.
  void exit_within_ms(int ms) const;

 private:
  int signal_fd_ = -1, wake_fd_ = -1;
};

}  // namespace engine
