#pragma once
// A running server and the configuration it has: launched once, changed in place by POST /reconfigure where the
// server offers that, stopped with a wait for its memory.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/study/launcher.h"

namespace study {

// POST /reconfigure with these axes, at the end of a run: not cancelled by the user's stop. Errors: the server's words.
base::Result<void> set_back(const probes::Endpoint& endpoint, const base::Json& axes, double timeout_s);

class Instance {
 public:
  // Takes over a server that is ready with `config`. `study` must outlive it.
  Instance(const Study& study, Launched server, search::Config config, std::string log_path);

  // How an attempt to change it ended. Anything but kDone or kInterrupted: launch afresh.
  struct Change {
    enum Result {
      kDone,
      kImpossible,   // an axis that differs is not offered; nothing was asked
      kRefused,      // the server says why; nothing has changed
      kFailed,       // the former configuration serves again, or one that is not what was asked
      kGone,         // dead, or it answers no more
      kInterrupted,  // the user stops the run
    } result = kImpossible;
    std::string why;
    bool served = false;                     // it was healthy before it was asked
    double reconfigure_s = 0, warmup_s = 0;  // of kDone: until it is changed, and until one real token came
  };
  // Health, POST /reconfigure, one real token, read-back of /props compared with `to`. Begins a new memory trace
  // once the former configuration's memory is given back. The server's t_load_s is absent afterwards.
  Change reconfigure(const search::Config& to);
  // Asks GET /props anew, into server().effective; false, and nothing changed, where it does not say.
  bool look_again();

  // Alive, as far as its guard knows.
  bool alive();
  // The axes that it says it changes in place; empty: it offers nothing of the kind.
  const std::vector<std::string>& offered() const { return offered_; }
  const search::Config& config() const { return config_; }
  const std::string& log_path() const { return log_path_; }
  double load_s() const { return load_s_; }  // of its launch
  Launched& server() { return server_; }

  struct Stopped {
    os::ChildExit exit;
    os::MemoryTrace trace;         // of the last trial
    uint64_t available_after = 0;  // bytes, once its memory was back or the wait was over
  };
  // Ends it, with grace, and waits for its memory. Once.
  Stopped stop();

 private:
  bool real_token(Change& change);
  bool read_back(const search::Config& to, Change& change);

  const Study& study_;
  Launched server_;
  search::Config config_;
  std::vector<std::string> offered_;
  std::string log_path_;
  double load_s_ = 0;
  os::MemoryTrace
      first_trace_;  // of the launch: what was available before it; later traces begin with it there
  bool first_trace_taken_ = false;
};

}  // namespace study
