#include "src/os/memory_watch.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "src/os/files.h"
#include "src/os/proc.h"

namespace os {
namespace {

constexpr double kGiB = 1 << 30;
constexpr double kWalkEveryS = 1;
constexpr double kWalkShare = 0.003;  // of one core, at most, for finding the descendants
constexpr double kRateWindowS = 1;
constexpr double kOwnFaultsPerS = 20;  // the candidate itself waits for the disk

double seconds_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

uint64_t grown(uint64_t now, uint64_t before) {
  return now - std::min(before, now);  // a process that nobody waited for takes its faults along
}

uint64_t pages_to_bytes(uint64_t pages) {
  static const auto kPage = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return pages * kPage;
}

}  // namespace

uint64_t headroom_of(uint64_t available, uint64_t evictable, uint64_t file_lru) {
  return available - std::min({evictable, file_lru, available});
}

uint64_t evictable_of_tree(uint64_t sum, uint64_t largest, uint64_t counted_twice) {
  return std::max(largest, sum - std::min(sum, counted_twice));
}

std::string MemorySampler::recorded(const char* name) const {
  auto text = read_file(host_ + "/" + name, 1 << 20);
  return text.ok() ? *std::move(text) : "";
}

MemorySample MemorySampler::take() {
  const double cpu_before = seconds_of(CLOCK_THREAD_CPUTIME_ID);
  MemorySample sample;
  sample.t_s = seconds_of(CLOCK_MONOTONIC);
  if (sample.t_s >= next_walk_s_) {
    tree_ = descendants(root_);  // the costly part: reads every process's stat
    counted_twice_ = tree_.size() > 1 ? counted_twice(tree_) : 0;
    const double cost = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu_before;
    next_walk_s_ = sample.t_s + std::max(kWalkEveryS, cost / kWalkShare);
  }
  const bool real = host_ == "/proc";
  const MemInfo memory = real ? read_meminfo() : parse_meminfo(recorded("meminfo")).value_or(MemInfo{});
  const VmCounters counters = real ? read_vm_counters() : parse_vmstat(recorded("vmstat"));
  const MemoryPressure pressure =
      real ? read_psi_full() : parse_psi_full(recorded("pressure/memory")).value_or(MemoryPressure{});
  uint64_t evictable = 0, largest = 0;
  for (pid_t pid : tree_) {
    if (auto process = read_process_memory(pid)) {
      sample.rss += process->rss;
      sample.rss_file += process->rss_file;
      evictable += process->evictable;
      largest = std::max(largest, process->evictable);
    }
  }
  // What has ended and been waited for is counted by its parent, at last by the root: the sum does not shrink.
  std::vector<pid_t> counted = tree_;
  counted.push_back(root_);
  sample.major_faults = major_faults(counted);
  sample.total = memory.total;
  sample.available = memory.available;
  sample.headroom =
      headroom_of(memory.available, evictable_of_tree(evictable, largest, counted_twice_), memory.file_lru);
  sample.swap_used = memory.swap_total - std::min(memory.swap_free, memory.swap_total);
  sample.refaults_file = counters.refaults_file;
  sample.refaults_anon = counters.refaults_anon;
  sample.swap_in = counters.swap_in;
  sample.swap_out = counters.swap_out;
  sample.psi_full_avg10 = pressure.avg10;
  sample.psi_full_us = pressure.total_us;
  cpu_us_ += (seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu_before) * 1e6;
  ++taken_;
  return sample;
}

void extend(MemoryTrace& trace, const MemorySample& first, const MemorySample& sample) {
  if (trace.samples == 0) {
    trace.available_before = trace.available_min = first.available;
    trace.headroom_before = trace.headroom_min = first.headroom;
    trace.swap_used_before = first.swap_used;
  }
  trace.total = sample.total;
  trace.available_now = sample.available;
  trace.available_min = std::min(trace.available_min, sample.available);
  trace.headroom_min = std::min(trace.headroom_min, sample.headroom);
  trace.swap_used_max = std::max(trace.swap_used_max, sample.swap_used);
  trace.swap_in = pages_to_bytes(grown(sample.swap_in, first.swap_in));
  trace.swap_out = pages_to_bytes(grown(sample.swap_out, first.swap_out));
  trace.rss_peak = std::max(trace.rss_peak, sample.rss);
  trace.rss_file_peak = std::max(trace.rss_file_peak, sample.rss_file);
  trace.psi_full_avg10_max = std::max(trace.psi_full_avg10_max, sample.psi_full_avg10);
  trace.psi_full_s = static_cast<double>(grown(sample.psi_full_us, first.psi_full_us)) * 1e-6;
  trace.refaults = grown(sample.refaults_file, first.refaults_file);
  trace.refaults_anon = grown(sample.refaults_anon, first.refaults_anon);
  trace.major_faults = std::max(trace.major_faults, grown(sample.major_faults, first.major_faults));
  ++trace.samples;
}

MemoryRule MemoryJudge::judge(const MemorySample& sample) {
  const bool thrashes = thrashing(sample);
  if (limits_.min_headroom_bytes == 0) {
    return MemoryRule::kNone;
  }
  if (sample.headroom < limits_.min_headroom_bytes) {
    return MemoryRule::kHeadroom;
  }
  return thrashes ? MemoryRule::kThrashing : MemoryRule::kNone;
}

bool MemoryJudge::thrashing(const MemorySample& sample) {
  if (sample.psi_full_avg10 < limits_.psi_full_percent) {
    pressed_ = false;
    return false;
  }
  if (!pressed_) {
    pressed_ = true;
    since_ = sample.t_s;
    mark_ = sample;
    return false;
  }
  const double elapsed = sample.t_s - mark_.t_s;
  if (elapsed < kRateWindowS) {
    return false;
  }
  const uint64_t refaults =
      grown(sample.refaults_file, mark_.refaults_file) + grown(sample.refaults_anon, mark_.refaults_anon);
  const uint64_t own = grown(sample.major_faults, mark_.major_faults);
  const bool high = static_cast<double>(refaults) >= limits_.refaults_per_s * elapsed;
  const bool has_part =
      sample.rss >= sample.total / 8 || static_cast<double>(own) >= kOwnFaultsPerS * elapsed;
  mark_ = sample;
  if (!high || !has_part) {
    since_ = sample.t_s;
    return false;
  }
  return sample.t_s - since_ >= limits_.sustained_s;
}

double sample_interval_s(double hz, uint64_t min_headroom_bytes, uint64_t headroom) {
  constexpr uint64_t kNear = uint64_t{4} << 30;
  const double usual = std::clamp(hz, 1.0, 100.0);
  const bool near =
      min_headroom_bytes > 0 && headroom < min_headroom_bytes + std::max(min_headroom_bytes, kNear);
  return 1 / (near ? std::min(usual * 4, 100.0) : usual);
}

std::string memory_guard_reason(const ChildExit& exit, const MemoryTrace& trace) {
  if (exit.memory_rule == MemoryRule::kThrashing) {
    return fmt::format(
        "the host was thrashing: all tasks stood still for memory {:.0f}% of the time (PSI full), {} pages "
        "were read back after they had been dropped",
        trace.psi_full_avg10_max, trace.refaults + trace.refaults_anon);
  }
  return fmt::format("headroom fell to {:.2f} GiB", static_cast<double>(trace.headroom_min) / kGiB);
}

}  // namespace os
