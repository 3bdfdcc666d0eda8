#include "kernels/threads.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using namespace kernels;

TEST_CASE("regions, chunks and barriers: every piece once, in every pool size") {
  for (int n_threads = 1; n_threads <= 8; ++n_threads) {
    CAPTURE(n_threads);
    ThreadPool pool(n_threads);
    CHECK(pool.size() == n_threads);
    std::vector<int> touched(1000, 0);
    std::vector<int> copy(1000, 0);
    std::atomic<int> workers{0};
    constexpr int kRegions = 200;
    for (int region = 0; region < kRegions; ++region) {
      pool.run([&](Worker& worker) {
        workers.fetch_add(1 << worker.index());
        const int64_t n = region % 1000;
        worker.for_chunks(n, 1 + region % 7, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            ++touched[i];  // plain: two workers on one index would be a race
          }
        });
        // for_chunks ended with a barrier: other workers' pieces are visible.
        worker.for_chunks(n, 3, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            copy[i] = touched[n - 1 - i];
          }
        });
        worker.barrier();
        worker.barrier();
      });
    }
    for (int i = 0; i < 1000; ++i) {
      REQUIRE(touched[i] == std::max(0, kRegions - 1 - i));
    }
    CHECK(copy[0] == 1);
    CHECK(workers.load() == kRegions * ((1 << n_threads) - 1));
  }
}

TEST_CASE("workers that have gone to sleep wake for the next region and at the end") {
  std::atomic<int> runs{0};
  {
    ThreadPool pool(4);
    for (int i = 0; i < 5; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      pool.run([&](Worker& worker) {
        if (worker.index() == 0) {
          std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the others sleep in the barrier
        }
        worker.barrier();
        ++runs;
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  CHECK(runs.load() == 20);
}

TEST_CASE("pools come and go, used or not") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 8);
    if (i % 3 == 0) {
      std::atomic<int> count{0};
      pool.run([&](Worker& worker) {
        CHECK(worker.count() == pool.size());
        ++count;
      });
      CHECK(count.load() == pool.size());
    }
  }
}

TEST_CASE("far more threads than cores still make progress") {
  const auto begin = std::chrono::steady_clock::now();
  ThreadPool pool(32);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 50; ++i) {
    pool.run([&](Worker& worker) {
      for (int k = 0; k < 4; ++k) {
        worker.for_chunks(64, 1, [&](int64_t from, int64_t to) { sum += to - from; });
      }
    });
  }
  CHECK(sum.load() == 50 * 4 * 64);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
}
