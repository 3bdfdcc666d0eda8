#include "kernels/threads.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/little_memory.h"

using namespace kernels;

namespace {

std::unique_ptr<ThreadPool> pool_of(int n_threads) {
  auto pool = ThreadPool::create(n_threads, "--threads");
  REQUIRE(pool.ok());
  return std::move(pool).value();
}

}  // namespace

TEST_CASE("threads that cannot be had are an error, and those already started end") {
  const fixtures::LittleMemory limit(256u << 20);
  const auto pool = ThreadPool::create(4096, "--threads-batch");
  REQUIRE_FALSE(pool.ok());
  CHECK(pool.failure().where == "--threads-batch");
  CHECK(pool.failure().what.find("couldn't start thread ") == 0);
  CHECK(pool.failure().what.find(" of 4096: Resource temporarily unavailable") != std::string::npos);
  CHECK_FALSE(pool.failure().next.empty());
}

TEST_CASE("regions, chunks and barriers: every piece once, in every pool size") {
  for (int n_threads = 1; n_threads <= 8; ++n_threads) {
    CAPTURE(n_threads);
    const auto owner = pool_of(n_threads);
    ThreadPool& pool = *owner;
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
    const auto owner = pool_of(4);
    ThreadPool& pool = *owner;
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
    const auto owner = pool_of(1 + i % 8);
    ThreadPool& pool = *owner;
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
  const auto owner = pool_of(32);
  ThreadPool& pool = *owner;
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
