#pragma once
// A pool of our own: one parallel region per segment, SPMD. Every worker runs the same function; the ops inside are
// phases, whose work is handed out piece by piece (big and little cores). A phase is over when its pieces are done,
// whoever did them: a worker that is late, because its core is busy with something else, costs the piece it holds and,
// once per region, the time until it is back; one that has not come at all costs nothing. Waiting spins for microseconds, then sleeps on a futex, so
// an idle server costs no CPU.

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
  int count() const;  // of the pool
  // A phase: splits [0, n) into pieces of `chunk` and calls body(begin, end) for those this worker wins. Returns when
  // all pieces of the phase are done; what they wrote can be read from then on. Every worker of the region makes the
  // same sequence of calls, of which a late one gets no piece any more.
  // Only a body may read what other phases write: between phases a late worker may be far behind the others. An `n`
  // that a phase before has computed is read by an acquire load (it was stored by a release).
  template <class Body>
  void for_chunks(int64_t n, int64_t chunk, Body&& body) {
    const uint32_t n_pieces = n <= 0 ? 0 : pieces(n, chunk);
    uint32_t n_won = 0;
    for (int64_t piece = 0; (piece = take(n_pieces)) >= 0; ++n_won) {
      const int64_t begin = piece * chunk;
      body(begin, begin + chunk < n ? begin + chunk : n);
    }
    end_phase(n_won, n_pieces);
  }

 private:
  friend class ThreadPool;
  Worker(ThreadPool* pool, int index, uint32_t phase) : pool_(pool), index_(index), phase_(phase) {}
  static uint32_t pieces(int64_t n, int64_t chunk);
  int64_t take(uint32_t n_pieces);  // -1: there is none left
  void end_phase(uint32_t n_won, uint32_t n_pieces);
  ThreadPool* pool_;
  int index_;
  uint32_t phase_;  // the one it is in; the pool's may be further
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
  // Runs region(worker) on the caller, as worker 0, and on every thread that comes before it is over; returns when
  // all its phases are done and nobody is in it. Not reentrant.
  void run(const std::function<void(Worker&)>& region);

 private:
  friend class Worker;
  struct State;
  explicit ThreadPool(int n_threads);
  std::unique_ptr<State> state_;
};

}  // namespace kernels
