#pragma once
// A pool of our own: one parallel region per segment, SPMD. Every worker runs the same function; ops inside
// split their work by an atomic chunk counter (big and little cores) and meet at barriers. Waiting spins for
// microseconds, then sleeps on a futex, so an idle server costs no CPU.

#include <cstdint>
#include <functional>
#include <memory>

#include "src/base/error.h"

namespace kernels {

class ThreadPool;

// A worker's view of the running region.
class Worker {
 public:
  int index() const { return index_; }
  int count() const;
  // Waits until every worker of the region is here.
  void barrier();
  // Splits [0, n) into pieces of at most `chunk` and calls body(begin, end) for those this worker wins; ends
  // with a barrier. Every worker of the region must make the same sequence of for_chunks and barrier calls.
  template <class Body>
  void for_chunks(int64_t n, int64_t chunk, Body&& body) {
    int64_t begin = 0;
    while ((begin = next_chunk(chunk)) < n) {
      body(begin, begin + chunk < n ? begin + chunk : n);
    }
    end_chunks();
  }

 private:
  friend class ThreadPool;
  Worker(ThreadPool* pool, int index) : pool_(pool), index_(index) {}
  int64_t next_chunk(int64_t chunk);
  void end_chunks();
  ThreadPool* pool_;
  int index_;
};

class ThreadPool {
 public:
  // n_threads >= 1, the calling thread of run() included. Error: the system gives no more threads; `flag` is
  // what asked for them.
  static base::Result<std::unique_ptr<ThreadPool>> create(int n_threads, const char* flag);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Runs region(worker) on every thread, the caller as worker 0; returns when all have finished. Not
  // reentrant.
  void run(const std::function<void(Worker&)>& region);

 private:
  friend class Worker;
  struct State;
  explicit ThreadPool(int n_threads);
  std::unique_ptr<State> state_;
};

}  // namespace kernels
