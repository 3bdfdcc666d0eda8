#pragma once
// A grid of blocks on the host: the threads of a block are fibers that run one at a time until they meet. A fault ends
// the launch: threads at different barriers, a thread that ends while others wait for it, a shuffle or vote whose mask
// names a thread that is not there, or any of checked.h.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/simt/checked.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace simt {

inline constexpr int kWarp = 32;

struct Site {
  const char* file;
  int line;
};

// What a lane brings to a meeting of its warp, and what it takes away.
using Payload = std::array<uint32_t, 8>;
enum class WarpOp { kSync, kShuffle, kVote, kAll };

// The running thread waits for its block.
void meet_block(Site site);
// The running thread waits for the lanes in `mask`. kShuffle: returns what lane `from` brought. kVote: word 0 is the
// mask of lanes whose word 0 was not 0.
Payload meet_warp(WarpOp op, uint32_t mask, const Payload& brought, int from, Site site);
// After meet_warp(kAll) with a full mask: what any lane brought.
const Payload& brought_by(int lane);

// Ends the launch.
[[noreturn]] void fault(const std::string& what);

// n bytes of the running block's shared memory, the same for each of its threads that comes with this key.
Pointer<unsigned char> static_shared(const void* key, size_t bytes, const char* name);
Pointer<unsigned char> dynamic_shared();

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;  // dynamic
};
// Runs `thread` for each thread of the grid. The text of the fault, naming kernel, block and thread; empty: none.
std::string run_grid(const char* kernel, const Grid& grid, const std::function<void()>& thread);

// How much shared memory a block may have, static and dynamic together: 99 KiB (SM 8.6, 12.x) or 227 KiB (9.0, 10.0).
void set_shared_budget(size_t bytes);
// The order in which blocks and threads run: no result may depend on it.
void set_reversed(bool reversed);

}  // namespace simt

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // NOLINT: CUDA's names
