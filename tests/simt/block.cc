#include "tests/simt/block.h"

#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

namespace simt {
namespace {

constexpr size_t kStackBytes = size_t{96} << 10;
constexpr size_t kMostShared = size_t{227} << 10;
constexpr size_t kMostThreads = 1024;

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Thread {
  ucontext_t context{};
  std::unique_ptr<std::byte[]> stack;
  State state = State::kDone;
  Site site{};
  WarpOp op = WarpOp::kSync;
  uint32_t mask = 0;
  int from = 0;
  Payload payload{};  // brought; once the meeting is over, taken away
};

struct Warp {
  uint32_t epoch = 1;
  std::array<Payload, kWarp> brought;
};

struct Machine {
  std::vector<Thread> threads{kMostThreads};
  std::vector<Warp> warps{kMostThreads / kWarp};
  size_t n = 0, now = 0;  // threads of a block; the running one
  ucontext_t scheduler{};
  const std::function<void()>* body = nullptr;
  const char* kernel = "";
  std::string failure;
  // Epochs count on over blocks and launches: what an earlier block left is older than block_began.
  uint32_t epoch = 1, block_began = 1;
  Region shared;
  std::vector<uint64_t> shared_bytes;  // aligned
  std::map<const void*, size_t> statics;
  size_t used = 0, dynamic_at = 0, budget = kMostShared;
  bool reversed = false;

  Machine() : shared_bytes((kMostShared + 256) / 8) {
    shared.name = "shared memory";
    shared.shared = true;
    shared.base =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(shared_bytes.data()) + 255) / 256 * 256);
    shared.writes.resize(kMostShared);
    shared.reads.resize(kMostShared);
  }
};

Machine& machine() {
  static Machine it;
  return it;
}

std::map<uintptr_t, std::unique_ptr<Region>>& regions() {
  static std::map<uintptr_t, std::unique_ptr<Region>> all;
  return all;
}

std::string text(const dim3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}
std::string text(Site site) {
  const std::string file = site.file == nullptr ? "?" : site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// Sets the built-in variables.
void become(size_t thread) {
  Machine& m = machine();
  m.now = thread;
  const auto i = static_cast<unsigned>(thread);
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}

void describe(size_t thread, const std::string& what) {
  become(thread);
  machine().failure = std::string("kernel ") + machine().kernel + ", block " + text(blockIdx) + ", thread " +
                      text(threadIdx) + ": " + what;
}

void wait() {
  Machine& m = machine();
  swapcontext(&m.threads[m.now].context, &m.scheduler);
}

void run_thread() {
  (*machine().body)();
  machine().threads[machine().now].state = State::kDone;
  wait();
}

uint32_t bit(size_t lane) {
  return 1U << lane;
}

// Lets a meeting of `thread`'s warp go on where all of its lanes have come; false: not all.
bool try_warp(size_t thread) {
  Machine& m = machine();
  const Thread& mine = m.threads[thread];
  const size_t first = thread / kWarp * kWarp;
  for (size_t lane = 0; lane < kWarp; ++lane) {
    if ((mine.mask & bit(lane)) == 0) {
      continue;
    }
    const Thread& other = m.threads[first + lane];
    if (first + lane >= m.n || other.state != State::kInWarp || other.op != mine.op ||
        other.mask != mine.mask || other.site.line != mine.site.line) {
      return false;
    }
  }
  Warp& warp = m.warps[thread / kWarp];
  uint32_t votes = 0;
  const uint32_t mask = mine.mask;
  for (size_t lane = 0; lane < kWarp; ++lane) {
    if ((mask & bit(lane)) != 0) {
      warp.brought[lane] = m.threads[first + lane].payload;
      votes |= warp.brought[lane][0] != 0 ? bit(lane) : 0;
    }
  }
  const WarpOp op = mine.op;
  for (size_t lane = 0; lane < kWarp; ++lane) {
    if ((mask & bit(lane)) == 0) {
      continue;
    }
    Thread& other = m.threads[first + lane];
    if (op == WarpOp::kShuffle) {
      other.payload = warp.brought[static_cast<size_t>(other.from)];
    } else if (op == WarpOp::kVote) {
      other.payload[0] = votes;
    }
    other.state = State::kReady;
  }
  if (op == WarpOp::kSync) {
    ++warp.epoch;
  }
  return true;
}

// Nothing runs: the block's barrier opens, or somebody waits for what will not come.
bool try_block() {
  Machine& m = machine();
  for (size_t i = 0; i < m.n; ++i) {
    const Thread& thread = m.threads[i];
    if (thread.state == State::kInWarp) {
      for (size_t lane = 0; lane < kWarp; ++lane) {
        const size_t other = i / kWarp * kWarp + lane;
        const State state = other < m.n ? m.threads[other].state : State::kDone;
        const bool same = state == State::kInWarp && m.threads[other].mask == thread.mask &&
                          m.threads[other].op == thread.op && m.threads[other].site.line == thread.site.line;
        if ((thread.mask & bit(lane)) != 0 && !same) {
          describe(
              i, "waits at " + text(thread.site) + " for lane " + std::to_string(lane) + ", which " +
                     (state == State::kDone        ? "has ended"
                      : state == State::kAtBarrier ? "waits at the barrier at " + text(m.threads[other].site)
                                                   : "is at " + text(m.threads[other].site)));
          return false;
        }
      }
    }
  }
  const auto waits = [](const Thread& t) { return t.state == State::kAtBarrier; };
  const auto begin = m.threads.begin(), end = begin + static_cast<std::ptrdiff_t>(m.n);
  const auto first = std::find_if(begin, end, waits);
  for (auto i = begin; i != end; ++i) {
    if (!waits(*i)) {
      describe(static_cast<size_t>(i - begin),
               "has ended, and others wait at the barrier at " + text(first->site));
      return false;
    }
    if (i->site.line != first->site.line || std::string(i->site.file) != first->site.file) {
      describe(static_cast<size_t>(i - begin), "waits at the barrier at " + text(i->site) +
                                                   ", other threads at that at " + text(first->site));
      return false;
    }
  }
  for (auto i = begin; i != end; ++i) {
    i->state = State::kReady;
  }
  ++m.epoch;
  return true;
}

// False: it failed.
bool run_block() {
  Machine& m = machine();
  m.block_began = ++m.epoch;
  m.statics.clear();
  for (size_t i = 0; i < m.n; ++i) {
    Thread& thread = m.threads[i];
    if (thread.stack == nullptr) {
      thread.stack = std::make_unique<std::byte[]>(kStackBytes);
    }
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
    thread.state = State::kReady;
  }
  for (;;) {
    bool ran = false, left = false;
    for (size_t k = 0; k < m.n; ++k) {
      const size_t i = m.reversed ? m.n - 1 - k : k;
      if (m.threads[i].state == State::kReady) {
        become(i);
        swapcontext(&m.scheduler, &m.threads[i].context);
        ran = true;
        if (!m.failure.empty()) {
          return false;
        }
      }
      left = left || m.threads[i].state != State::kDone;
    }
    if (!left) {
      return true;
    }
    if (!ran && !try_block()) {
      return false;
    }
  }
}

const char* name_of(Access access) {
  return access == Access::kRead ? "reads" : access == Access::kWrite ? "writes" : "adds to";
}

// Whether the running thread is apart from a touch by a barrier, or is its own.
bool apart(const Touch& touch, bool reads) {
  const Machine& m = machine();
  if (touch.epoch != m.epoch || touch.epoch < m.block_began) {
    return true;
  }
  if (touch.thread == m.now && !(reads && touch.several)) {
    return true;
  }
  const bool one_warp = touch.thread / kWarp == m.now / kWarp && !(reads && touch.warps);
  return one_warp && touch.warp_epoch != m.warps[m.now / kWarp].epoch;
}

void note(Touch& touch, bool read) {
  const Machine& m = machine();
  const uint32_t warp_epoch = m.warps[m.now / kWarp].epoch;
  const bool own_warp = touch.thread / kWarp == m.now / kWarp;
  if (touch.epoch != m.epoch || (own_warp && !touch.warps && touch.warp_epoch != warp_epoch)) {
    touch.several = touch.warps = false;  // what was before is over
  } else if (read && touch.thread != m.now) {
    touch.several = true;
    touch.warps = touch.warps || !own_warp;
  }
  touch.epoch = m.epoch;
  touch.warp_epoch = warp_epoch;
  touch.thread = static_cast<uint16_t>(m.now);
}

// "" where the running thread may.
std::string fault_in_shared(Region& region, size_t at, size_t n, Access access) {
  const Machine& m = machine();
  for (size_t i = at; i < at + n; ++i) {
    Touch &write = region.writes[i], &read = region.reads[i];
    if (access != Access::kWrite && write.epoch < m.block_began) {
      return ", which nobody has written";
    }
    if (access == Access::kAtomic) {
      write.epoch = std::max(write.epoch, m.block_began);
      continue;
    }
    if (!apart(write, false)) {
      return ", written by thread " + std::to_string(write.thread) + " with no barrier between";
    }
    if (access == Access::kWrite && !apart(read, true)) {
      return ", read by thread " + std::to_string(read.thread) + " with no barrier between";
    }
    note(access == Access::kRead ? read : write, access == Access::kRead);
  }
  return {};
}

}  // namespace

void fault(const std::string& what) {
  describe(machine().now, what);
  for (;;) {
    wait();  // for good: the launch is over
  }
}

void check_access(Region* region, uintptr_t at, size_t n, size_t align, Access access) {
  const bool inside = region != nullptr && region->holds(at, n) && at % align == 0;
  const size_t offset = region == nullptr ? 0 : at - reinterpret_cast<uintptr_t>(region->base);
  std::string why;
  if (inside && region->shared) {
    why = fault_in_shared(machine().shared, offset, n, access);
    if (why.empty()) {
      return;
    }
  } else if (inside) {
    uint8_t* written = region->written.data() + offset;
    if (access == Access::kWrite) {
      std::memset(written, 1, n);
      return;
    }
    if (std::memchr(written, 0, n) == nullptr) {
      return;
    }
    why = ", which nobody has written";
  }
  const std::string what = std::string(name_of(access)) + " " + std::to_string(n) + " bytes";
  if (region == nullptr) {
    fault(what + " through a pointer into no buffer");
  }
  if (!region->holds(at, n)) {
    why = ", which has " + std::to_string(region->size);
  } else if (at % align != 0) {
    why = ", an address that is no multiple of " + std::to_string(align);
  }
  fault(what + " at byte " + std::to_string(static_cast<int64_t>(offset)) + " of " + region->name + why);
}

Region* region_of(const void* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  auto next = regions().upper_bound(address);
  if (next == regions().begin()) {
    return nullptr;
  }
  Region* region = std::prev(next)->second.get();
  return region->holds(address, 0) ? region : nullptr;
}

Region* add_region(std::string name, size_t bytes, const void* values) {
  auto region = std::make_unique<Region>();
  region->name = std::move(name);
  region->size = bytes;
  region->base = static_cast<std::byte*>(::operator new (bytes + 1, std::align_val_t{256}));
  std::memset(region->base, 0xa5, bytes);
  if (values != nullptr && bytes > 0) {
    std::memcpy(region->base, values, bytes);
  }
  region->written.assign(bytes, values != nullptr ? 1 : 0);
  Region* raw = region.get();
  regions()[reinterpret_cast<uintptr_t>(raw->base)] = std::move(region);
  return raw;
}

void remove_region(Region* region) {
  ::operator delete (region->base, std::align_val_t{256});
  regions().erase(reinterpret_cast<uintptr_t>(region->base));
}

void meet_block(Site site) {
  Thread& thread = machine().threads[machine().now];
  thread.site = site;
  thread.state = State::kAtBarrier;
  wait();
}

Payload meet_warp(WarpOp op, uint32_t mask, const Payload& brought, int from, Site site) {
  Machine& m = machine();
  const size_t i = m.now, lane = i % kWarp;
  if ((mask & bit(lane)) == 0) {
    fault("is not in the mask it names at " + text(site));
  }
  if (op == WarpOp::kShuffle && (from < 0 || from >= kWarp || (mask & bit(static_cast<size_t>(from))) == 0)) {
    fault("reads from lane " + std::to_string(from) + ", which is not in the mask, at " + text(site));
  }
  Thread& thread = m.threads[i];
  thread.site = site;
  thread.op = op;
  thread.mask = mask;
  thread.payload = brought;
  thread.from = from;
  thread.state = State::kInWarp;
  if (!try_warp(i)) {
    wait();
  }
  return thread.payload;
}

const Payload& brought_by(int lane) {
  return machine().warps[machine().now / kWarp].brought[static_cast<size_t>(lane)];
}

Pointer<unsigned char> static_shared(const void* key, size_t bytes, const char* name) {
  Machine& m = machine();
  const auto [found, fresh] = m.statics.try_emplace(key, m.used);
  if (fresh) {
    m.used += (bytes + 15) / 16 * 16;
    if (m.used > m.budget) {
      fault(std::string(name) + " does not fit: a block may have " + std::to_string(m.budget) +
            " bytes of shared memory");
    }
    m.shared.size = m.used;
  }
  return {&m.shared, reinterpret_cast<uintptr_t>(m.shared.base + found->second)};
}

Pointer<unsigned char> dynamic_shared() {
  Machine& m = machine();
  return {&m.shared, reinterpret_cast<uintptr_t>(m.shared.base)};
}

void set_shared_budget(size_t bytes) {
  machine().budget = std::min(bytes, kMostShared);
}
void set_reversed(bool reversed) {
  machine().reversed = reversed;
}

std::string run_grid(const char* kernel, const Grid& grid, const std::function<void()>& thread) {
  Machine& m = machine();
  const size_t n = size_t{grid.threads.x} * grid.threads.y * grid.threads.z;
  const size_t blocks = size_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
  const std::string who = std::string("kernel ") + kernel + ": ";
  if (n == 0 || n > kMostThreads || blocks == 0 || grid.blocks.y > 65535 || grid.blocks.z > 65535) {
    return who + "a grid of " + text(grid.blocks) + " blocks of " + text(grid.threads) + " threads";
  }
  if (grid.shared_bytes > m.budget) {
    return who + std::to_string(grid.shared_bytes) + " bytes of shared memory, more than " +
           std::to_string(m.budget);
  }
  m.kernel = kernel;
  m.body = &thread;
  m.n = n;
  m.failure.clear();
  gridDim = grid.blocks;
  blockDim = grid.threads;
  for (size_t k = 0; k < blocks && m.failure.empty(); ++k) {
    const auto i = static_cast<unsigned>(m.reversed ? blocks - 1 - k : k);
    blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
    m.used = (grid.shared_bytes + 15) / 16 * 16;
    m.shared.size = grid.shared_bytes;
    run_block();
  }
  return m.failure;
}

}  // namespace simt
