#pragma once
// A systemd user unit that is stopped for a while and started again whatever happens, a kill -9 of this process
// included.
//
// A small single-threaded watcher process holds the read end of a pipe; when the pipe ends it waits until no
// candidate of ours is left (the unit wants their memory) and becomes `systemctl --user start UNIT`. The same path
// serves a normal end and a crash. An exclusive lock on the unit is held until then, so that a run which resumes at
// once waits for the former one's watcher, and two runs cannot hold one unit.

#include <memory>
#include <string>

#include "src/base/error.h"

namespace os {

class HeldService {
 public:
  // Stops `unit` when it is active; one that is not is left alone, and one that is just ending is waited for. Errors: systemctl is missing or cannot reach the
  // user's service manager, the unit does not stop, another run holds it. `watcher_program` calls service_main() when
  // argv[1] is kServiceCommand.
  static base::Result<HeldService> stop(const std::string& unit,
                                        const std::string& watcher_program = "/proc/self/exe");
  HeldService(HeldService&& other) noexcept;
  HeldService& operator=(HeldService&& other) noexcept;
  ~HeldService();  // restore(), with a warning where it fails

  bool held() const;  // it was active, and has not been restored yet
  // Starts it again and waits until systemctl has done so. Nothing where it is not held.
  base::Result<void> restore();

 private:
  struct State;
  explicit HeldService(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What `systemctl is-active` printed, as far as it matters here. Pure.
// kEnding: on its way down, perhaps to come up again (a restart).
enum class UnitState { kActive, kInactive, kEnding, kUnknown };
UnitState parse_unit_state(const std::string& is_active_output);

inline constexpr const char* kServiceCommand = "__service";
int service_main(int argc, char** argv);

}  // namespace os
