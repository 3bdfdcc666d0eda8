#include "src/study/interrupt.h"

#include <csignal>
#include <initializer_list>

namespace study {
namespace {

std::atomic<bool> flag{false};
std::atomic<int> number{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

extern "C" void on_signal(int signal_number) {
  int none = 0;
  if (!number.compare_exchange_strong(none, signal_number)) {
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
    return;
  }
  flag = true;  // last: whoever sees it asks for the number
}

}  // namespace

const std::atomic<bool>& interrupted() {
  return flag;
}
int interrupting_signal() {
  return number;
}

void set_interrupted(int signal_number) {
  number = signal_number;
  flag = signal_number != 0;
}

void install_interrupt_handlers() {
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction inherited = {};
    if (sigaction(signal_number, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN) {
      continue;  // nohup, or a job in the background: whoever started us wants it ignored
    }
    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(signal_number, &action, nullptr);
  }
}

}  // namespace study
