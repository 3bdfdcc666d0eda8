#pragma once
// Ctrl-C and SIGTERM as a flag: the loop ends its candidate, leaves a resumable journal and exits 130 or 143.
// A second signal ends the driver at once; the guard then kills the candidate.

#include <atomic>

namespace study {

// True from the first SIGINT, SIGTERM or SIGHUP on. Lock-free, so that the handler may set it.
const std::atomic<bool>& interrupted();
// The signal's number, 0 when none came.
int interrupting_signal();

void install_interrupt_handlers();
// As a signal would set it (0 clears it): for tests of the loop.
void set_interrupted(int signal_number);

}  // namespace study
