#include "kernels/threads.h"

#include <sched.h>

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "src/base/check.h"

namespace kernels {
namespace {

// Longer than the gap between two parts of a step, far shorter than a token; the bound is what keeps more
// threads than cores from collapsing.
constexpr std::chrono::microseconds kSpin{20};

// State::gate: the region is open to those who come; the rest counts the pool's own threads that are inside.
constexpr uint32_t kOpen = 1u << 31;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) {
    return static_cast<int>(std::thread::hardware_concurrency());  // over 1,024 CPUs
  }
  return CPU_COUNT(&set);
}

}  // namespace

struct ThreadPool::State {  // NOLINT(clang-analyzer-optin.performance.Padding): a line of the cache each
  explicit State(int n) : n_threads(n), spin(n <= usable_cpus()) {}

  // Returns once enough(value): spins a little, then sleeps.
  template <class Enough>
  void wait_until(const std::atomic<uint32_t>& value, Enough&& enough) const {
    if (spin) {
      const auto deadline = std::chrono::steady_clock::now() + kSpin;
      do {
        for (int i = 0; i < 16; ++i) {
          if (enough(value.load(std::memory_order_acquire))) {
            return;
          }
          pause();
        }
      } while (std::chrono::steady_clock::now() < deadline);
    }
    for (uint32_t now = 0; !enough(now = value.load(std::memory_order_acquire));) {
      value.wait(now, std::memory_order_acquire);
    }
  }

  // The next piece of a phase. The ticket names its phase, so that a late worker takes nothing of another one.
  int64_t take(uint32_t of_phase, uint32_t n_pieces) {
    uint64_t now = ticket.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(now >> 32) == of_phase && static_cast<uint32_t>(now) < n_pieces) {
      if (ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        return static_cast<uint32_t>(now);
      }
    }
    return -1;
  }

  void end_phase(uint32_t mine, uint32_t n_won, uint32_t n_pieces) {
    if (n_pieces == 0) {
      uint64_t empty = uint64_t{mine} << 32;  // the first to come ends it
      if (ticket.compare_exchange_strong(empty, next_ticket(mine), std::memory_order_acq_rel)) {
        return announce(mine + 1);
      }
    } else if (n_won > 0 && done.fetch_add(n_won, std::memory_order_acq_rel) + n_won == n_pieces) {
      // Nobody else has a piece or can get one until the ticket moves on.
      done.store(0, std::memory_order_relaxed);
      ticket.store(next_ticket(mine), std::memory_order_release);
      return announce(mine + 1);
    }
    wait_until(phase, [mine](uint32_t now) { return static_cast<int32_t>(now - mine) > 0; });
  }
  static uint64_t next_ticket(uint32_t mine) { return uint64_t{mine + 1} << 32; }
  void announce(uint32_t next) {
    phase.exchange(
        next, std::memory_order_seq_cst);  // a store could be seen after notify_all has looked for sleepers
    phase.notify_all();
  }

  // A thread of the pool, whenever a region begins: enters if it is still open by then.
  bool enter() {
    uint32_t now = gate.load(std::memory_order_relaxed);
    while ((now & kOpen) != 0) {
      if (gate.compare_exchange_weak(now, now + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }
  void leave() {
    if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) {  // closed, and this was the last one inside
      gate.notify_all();
    }
  }

  void work(ThreadPool* pool, int index) {
    for (uint32_t seen = 0;;) {
      wait_until(epoch, [&seen](uint32_t now) { return static_cast<int32_t>(now - seen) > 0; });
      seen = epoch.load(std::memory_order_acquire);
      if (stop) {
        return;
      }
      if (enter()) {
        seen = region_epoch;  // it may have come too late for the one it was woken for
        Worker worker(pool, index, first_phase);
        (*region)(worker);
        leave();
      }
    }
  }

  const int n_threads;
  const bool spin;
  const std::function<void(Worker&)>* region = nullptr;  // published by the gate, like the next one
  uint32_t first_phase = 0, region_epoch = 0;            // of the region
  std::atomic<bool> stop{false};                         // seen with epoch, or before by one that is late
  bool running = false;                                  // the caller's own
  std::vector<std::thread> threads;
  // Each on a cache line of its own: every thread polls the first two while others draw pieces.
  alignas(64) std::atomic<uint32_t> epoch{0};
  alignas(64) std::atomic<uint32_t> phase{0};   // follows the ticket's; what those that wait sleep on
  alignas(64) std::atomic<uint64_t> ticket{0};  // the phase << 32 | its next piece
  alignas(64) std::atomic<uint32_t> done{0};    // pieces of the phase
  alignas(64) std::atomic<uint32_t> gate{0};
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>(n_threads)) {
  AR_CHECK(n_threads >= 1, "a pool has at least the calling thread");
}

base::Result<std::unique_ptr<ThreadPool>> ThreadPool::create(int n_threads, const char* flag) {
  std::unique_ptr<ThreadPool> pool(new ThreadPool(n_threads));
  for (int i = 1; i < n_threads; ++i) {
    try {
      pool->state_->threads.emplace_back([self = pool.get(), i] { self->state_->work(self, i); });
    } catch (const std::system_error& problem) {  // the pool ends those it has
      return base::sys_error(flag, fmt::format("couldn't start thread {} of {}", i + 1, n_threads),
                             problem.code().value(),
                             "use fewer threads, or raise the limit of processes (ulimit -u)");
    }
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->epoch.fetch_add(1, std::memory_order_release);
  state_->epoch.notify_all();
  for (std::thread& thread : state_->threads) {
    thread.join();
  }
}

int ThreadPool::size() const {
  return state_->n_threads;
}

void ThreadPool::run(const std::function<void(Worker&)>& region) {
  State& state = *state_;
  AR_CHECK(!state.running, "ThreadPool::run is not reentrant");
  state.running = true;
  state.region = &region;
  state.first_phase = state.phase.load(std::memory_order_relaxed);
  state.region_epoch = state.epoch.load(std::memory_order_relaxed) + 1;
  Worker worker(this, 0, state.first_phase);
  state.gate.store(kOpen, std::memory_order_release);
  state.epoch.fetch_add(1, std::memory_order_release);
  state.epoch.notify_all();
  region(worker);
  state.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  state.wait_until(state.gate, [](uint32_t inside) { return inside == 0; });
  state.running = false;
}

int Worker::count() const {
  return pool_->state_->n_threads;
}
uint32_t Worker::pieces(int64_t n, int64_t chunk) {
  AR_CHECK(chunk > 0 && (n - 1) / chunk < std::numeric_limits<int32_t>::max(), "a phase of too many pieces");
  return static_cast<uint32_t>((n - 1) / chunk + 1);
}
int64_t Worker::take(uint32_t n_pieces) {
  return pool_->state_->take(phase_, n_pieces);
}
void Worker::end_phase(uint32_t n_won, uint32_t n_pieces) {
  pool_->state_->end_phase(phase_++, n_won, n_pieces);
}

}  // namespace kernels
