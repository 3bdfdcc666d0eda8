#pragma once
// The guard's eyes and judgement: one sample of the host's memory and of the candidate's share in it, the trace over
// many, and the rules by which the guard strikes. MemorySampler alone reads /proc; the rest is pure.

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/os/child.h"

namespace os {

struct MemorySample {
  double t_s = 0;                                                            // on a monotonic clock
  uint64_t total = 0, available = 0, headroom = 0, swap_used = 0;            // bytes
  uint64_t rss = 0, rss_file = 0;                                            // of the candidate's tree, bytes
  uint64_t refaults_file = 0, refaults_anon = 0, swap_in = 0, swap_out = 0;  // of the host since boot, pages
  uint64_t major_faults = 0;                                                 // of the tree since its launch
  double psi_full_avg10 = 0;                                                 // percent
  uint64_t psi_full_us = 0;                                                  // since boot
};

// The file pages of a tree that the kernel may drop: what its processes count of them, together, less what is surely
// counted more than once (workers that map the same weights; counted_twice() in os/proc.h), but all of the largest.
uint64_t evictable_of_tree(uint64_t sum, uint64_t largest, uint64_t counted_twice);

// MemAvailable less those file pages of the candidate that the kernel may drop, as far as the page cache (`file_lru`)
// and MemAvailable can hold them.
uint64_t headroom_of(uint64_t available, uint64_t evictable, uint64_t file_lru);

// Samples the descendants of `root` (the guard). Counters of /proc only, no page walk: tens of microseconds. Who the
// descendants are, and what several of them map alike, is looked up once a second at most, and never for more than 0.3% of a core.
class MemorySampler {
 public:
  // `host`: where the host's counters (meminfo, vmstat, pressure/memory) are read; elsewhere than in /proc it is a
  // recorded host, for tests of the whole watch. The processes are the real ones always.
  explicit MemorySampler(pid_t root, std::string host = "/proc") : root_(root), host_(std::move(host)) {}
  MemorySample take();
  void look_again() { next_walk_s_ = 0; }  // the tree has changed
  double mean_us() const { return taken_ == 0 ? 0 : cpu_us_ / taken_; }

 private:
  std::string recorded(const char* name) const;

  pid_t root_;
  std::string host_;
  std::vector<pid_t> tree_;
  double next_walk_s_ = 0;
  uint64_t counted_twice_ = 0;  // bytes, at the last walk
  double cpu_us_ = 0;
  int taken_ = 0;
};

// Adds a sample to a trace that began with `first` (which may be that sample).
void extend(MemoryTrace& trace, const MemorySample& first, const MemorySample& sample);

// Thrashing: for `sustained_s` on end PSI full avg10 is over `psi_full_percent` and pages come back at
// `refaults_per_s` or more in each second, while the candidate has a part in it (an eighth of the memory, or major
// faults of its own). On a box with unified memory what follows is no slow trial but a wedged host.
struct WatchLimits {
  uint64_t min_headroom_bytes = 0;  // 0: never strikes, whatever happens
  double psi_full_percent = 40;
  double refaults_per_s = 1000;
  double sustained_s = 3;
};

class MemoryJudge {
 public:
  explicit MemoryJudge(const WatchLimits& limits) : limits_(limits) {}
  // To be told every sample, in order. kHeadroom is judged by this sample alone.
  MemoryRule judge(const MemorySample& sample);

 private:
  bool thrashing(const MemorySample& sample);

  WatchLimits limits_;
  bool pressed_ = false;  // under pressure since `since_`, as judged second by second
  double since_ = 0;      // seconds
  MemorySample mark_;     // where the present second began
};

// Seconds until the next sample. Weights arrive at several GB/s: four times as often near the floor.
double sample_interval_s(double hz, uint64_t min_headroom_bytes, uint64_t headroom);

}  // namespace os
