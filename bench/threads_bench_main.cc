// What the thread pool's phases cost where every core is ours, and where something else runs on one of them: the time
// of a region of many short phases, as a token's decode is, by one thread and by several. Each count of pieces done is
// checked. threads-bench [THREADS [PHASE_US]]

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "kernels/threads.h"
#include "src/base/stats.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPhases = 200, kPieces = 32, kRounds = 41;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Arithmetic that nothing can skip, about `n` cycles of latency each four.
float work(int n) {
  float x = 1;
  for (int i = 0; i < n; ++i) {
    x = x * 0.999F + 0.001F;
    asm volatile("" : "+m"(x));
  }
  return x;
}

// Repetitions of work() that take so long, on a core of one's own.
int calibrate(double us) {
  constexpr int kTry = 200'000;
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto begin = Clock::now();
    work(kTry);
    best = std::min(best, ms_since(begin));
  }
  return std::max(1, static_cast<int>(us / 1000 / best * kTry));
}

// Something else that runs on the last core this process may use.
class Intruder {
 public:
  Intruder() : thread_([this] { run(); }) {}
  ~Intruder() {
    stop_ = true;
    thread_.join();
  }
  Intruder(const Intruder&) = delete;
  Intruder& operator=(const Intruder&) = delete;

 private:
  void run() const {
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (::sched_getaffinity(0, sizeof all, &all) == 0) {
      int last = 0;
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        last = CPU_ISSET(cpu, &all) ? cpu : last;
      }
      CPU_SET(last, &one);
      (void)::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
    }
    while (!stop_) {
      work(1000);
    }
  }
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Milliseconds of one region; negative where a piece was done twice or not at all.
double region_ms(kernels::ThreadPool& pool, int n_work) {
  std::atomic<int> n_done{0};
  const auto begin = Clock::now();
  pool.run([&](kernels::Worker& worker) {
    for (int phase = 0; phase < kPhases; ++phase) {
      worker.for_chunks(kPieces, 1, [&](int64_t, int64_t) {
        work(n_work);
        n_done.fetch_add(1, std::memory_order_relaxed);
      });
    }
  });
  const double ms = ms_since(begin);
  return n_done == kPhases * kPieces ? ms : -1;
}

}  // namespace

int main(int argc, char** argv) {
  const int n_threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const double phase_us = argc > 2 ? std::atof(argv[2]) : 50;
  if (argc > 3 || n_threads < 2 || !(phase_us > 0)) {
    fmt::print(stderr, "usage: threads-bench [THREADS [MICROSECONDS OF A PHASE]]\n");
    return 2;
  }
  const int n_work = calibrate(phase_us / kPieces);
  auto one = kernels::ThreadPool::create(1, "THREADS"),
       several = kernels::ThreadPool::create(n_threads, "THREADS");
  if (!one || !several) {
    fmt::print(stderr, "{}\n", (one ? several : one).failure().to_string());
    return 1;
  }
  std::array<std::vector<double>, 4> ms;  // quiet: one, several; with company: the same
  for (int round = 0; round < kRounds; ++round) {
    for (const bool busy : {false, true}) {
      const auto intruder = busy ? std::make_unique<Intruder>() : nullptr;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      for (const bool many : {false, true}) {
        const double spent = region_ms(many ? **several : **one, n_work);
        if (spent < 0) {
          fmt::print(stderr, "pieces were lost or done twice\n");
          return 1;
        }
        ms[(busy ? 2 : 0) + (many ? 1 : 0)].push_back(spent);
      }
    }
  }
  fmt::print("{} phases of {} us by one thread, {} pieces each; medians of {} regions, interleaved\n",
             kPhases, phase_us, kPieces, kRounds);
  for (const size_t busy : {0, 1}) {
    const double alone = base::median(ms[2 * busy]), together = base::median(ms[2 * busy + 1]);
    fmt::print("{:28} 1 thread {:8.2f} ms, {} threads {:8.2f} ms ({:.2f}x)\n",
               busy == 0 ? "every core ours:" : "something else on one core:", alone, n_threads, together,
               alone / together);
  }
  return 0;
}
