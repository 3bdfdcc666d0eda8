#include "kernels/threads.h"

#include <sched.h>

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "src/base/check.h"

namespace kernels {
namespace {

// Longer than the gap between two parts of a step, far shorter than a token; the bound is what keeps more
// threads than cores from collapsing.
constexpr std::chrono::microseconds kSpin{20};

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

struct ThreadPool::State {
  explicit State(int n) : n_threads(n), spin(n <= usable_cpus()) {}

  // Returns once value != old: spins a little, then sleeps.
  void wait_change(std::atomic<uint32_t>& value, uint32_t old) const {
    if (spin) {
      const auto deadline = std::chrono::steady_clock::now() + kSpin;
      do {
        for (int i = 0; i < 16; ++i) {
          if (value.load(std::memory_order_acquire) != old) {
            return;
          }
          pause();
        }
      } while (std::chrono::steady_clock::now() < deadline);
    }
    while (value.load(std::memory_order_acquire) == old) {
      value.wait(old, std::memory_order_acquire);
    }
  }

  void barrier() {
    const uint32_t now = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
      // Everybody else is waiting here: nobody draws chunks or counts arrivals until the phase moves.
      arrived.store(0, std::memory_order_relaxed);
      next.store(0, std::memory_order_relaxed);
      phase.store(now + 1, std::memory_order_release);
      phase.notify_all();
    } else {
      wait_change(phase, now);
    }
  }

  void work(ThreadPool* pool, int index) {
    uint32_t seen = 0;
    for (;;) {
      wait_change(epoch, seen);
      seen = epoch.load(std::memory_order_acquire);
      if (stop) {
        return;
      }
      Worker worker(pool, index);
      (*region)(worker);
      barrier();
    }
  }

  const int n_threads;
  const bool spin;
  const std::function<void(Worker&)>* region = nullptr;  // published by epoch
  bool stop = false;                                     // published by epoch
  bool running = false;                                  // the caller's own
  std::vector<std::thread> threads;
  // Each on a cache line of its own: every thread polls the first two while others draw chunks.
  alignas(64) std::atomic<uint32_t> epoch{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int64_t> next{0};
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
  AR_CHECK(!state_->running, "ThreadPool::run is not reentrant");
  state_->running = true;
  state_->region = &region;
  state_->epoch.fetch_add(1, std::memory_order_release);
  state_->epoch.notify_all();
  Worker worker(this, 0);
  region(worker);
  state_->barrier();
  state_->running = false;
}

int Worker::count() const {
  return pool_->state_->n_threads;
}
void Worker::barrier() {
  pool_->state_->barrier();
}
int64_t Worker::next_chunk(int64_t chunk) {
  return pool_->state_->next.fetch_add(chunk, std::memory_order_relaxed);
}
void Worker::end_chunks() {
  pool_->state_->barrier();
}

}  // namespace kernels
