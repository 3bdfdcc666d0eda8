#pragma once
// How fast kernels read memory: what decode is measured against, and whether weights may stay where the host has them.

#include "kernels/cuda/launch.h"

namespace kernels::cuda {

// Enqueues one reading of `bytes` (a multiple of 16, aligned to 16) at `data`; `out` has room for kReadSums words.
inline constexpr int kReadSums = 1024;
base::Result<void> read_all(Stream stream, const void* data, uint64_t bytes, uint32_t* out);

// Bytes per second of the fastest of `passes` readings, after one that is not timed. Waits for the stream.
base::Result<double> read_bandwidth(Stream stream, const void* data, uint64_t bytes, int passes,
                                    uint32_t* out);

}  // namespace kernels::cuda
