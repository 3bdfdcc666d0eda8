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
  if (!limit.kept()) {
    MESSAGE("skipped: limits on memory are not kept here");
    return;
  }
  const auto pool = ThreadPool::create(4096, "--threads-batch");
  REQUIRE_FALSE(pool.ok());
  CHECK(pool.failure().where == "--threads-batch");
  CHECK(pool.failure().what.find("couldn't start thread ") == 0);
  CHECK(pool.failure().what.find(" of 4096: Resource temporarily unavailable") != std::string::npos);
  CHECK_FALSE(pool.failure().next.empty());
}

TEST_CASE("regions and phases: every piece once, in every pool size, whoever is late") {
  for (int n_threads = 1; n_threads <= 8; ++n_threads) {
    for (const bool late : {false, true}) {
      CAPTURE(n_threads);
      const auto owner = pool_of(n_threads);
      ThreadPool& pool = *owner;
      CHECK(pool.size() == n_threads);
      std::vector<int> touched(1000, 0);
      std::vector<int> copy(1000, 0);
      constexpr int kRegions = 200;
      for (int region = 0; region < kRegions; ++region) {
        pool.run([&](Worker& worker) {
          const auto idle = [&] {
            if (late && (region + worker.index()) % 3 == 0) {
              std::this_thread::sleep_for(std::chrono::microseconds(50));
            }
          };
          const int64_t n = region % 1000;
          idle();
          worker.for_chunks(n, 1 + region % 7, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              ++touched[i];  // plain: two workers on one index would be a race
            }
          });
          idle();
          // The phase is over: other workers' pieces are visible.
          worker.for_chunks(n, 3, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              copy[i] = touched[n - 1 - i];
            }
          });
          worker.for_chunks(0, 1, [&](int64_t, int64_t) { touched[0] = -1000; });
          worker.for_chunks(-5, 1, [&](int64_t, int64_t) { touched[0] = -1000; });
        });
      }
      for (int i = 0; i < 1000; ++i) {
        REQUIRE(touched[i] == std::max(0, kRegions - 1 - i));
      }
      CHECK(copy[0] == 1);
    }
  }
}

TEST_CASE("a worker that is stuck between phases holds up nobody, and takes nothing of what it missed") {
  const auto owner = pool_of(3);
  ThreadPool& pool = *owner;
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> free{false};
    std::atomic<int> n_stuck{0}, n_done{0}, n_wrong{0};
    std::vector<int> last(64, -1);
    pool.run([&](Worker& worker) {
      if (worker.index() != 0) {
        ++n_stuck;
        while (!free) {  // as if its core were busy with something else
          std::this_thread::yield();
        }
      }
      for (int phase = 0; phase < 500; ++phase) {
        worker.for_chunks(64, 8, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            n_wrong += last[i] != phase - 1;
            last[i] = phase;
          }
          ++n_done;
        });
        if (phase == 250) {
          free = true;  // whoever comes first: those who were stuck catch up with the others
        }
      }
    });
    CHECK(n_done == 500 * 8);
    CHECK(n_wrong == 0);
    CHECK(n_stuck <= 2);
  }
}

TEST_CASE("workers that have gone to sleep wake for the next region, for a piece, and at the end") {
  const auto owner = pool_of(4);
  ThreadPool& pool = *owner;
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::atomic<int> n_held{0};
    pool.run([&](Worker& worker) {
      for (int phase = 1; phase <= 2; ++phase) {
        worker.for_chunks(1, 1, [&](int64_t, int64_t) {
          std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the others sleep until it is done
        });
        worker.for_chunks(4, 1, [&](int64_t, int64_t) {
          ++n_held;
          while (n_held < 4 * phase) {  // no piece is done until everybody has one
            std::this_thread::yield();
          }
        });
      }
    });
    CHECK(n_held == 8);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
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
      CHECK(count.load() >= 1);
      CHECK(count.load() <= pool.size());
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
