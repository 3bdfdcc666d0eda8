#pragma once
// What every launcher of kernels/cuda shares. Launchers enqueue on a stream and return; all pointers are to device
// memory. Errors are those of the launch; faults of the kernel come with the stream's next synchronisation.

#include <cstddef>
#include <cstdint>

#include "src/base/error.h"

namespace kernels::cuda {

using Stream = void*;  // a cudaStream_t; nullptr: the default one

// How many rows a step has. A captured graph is launched for `most`; each run does the first *used of them.
struct Rows {
  int most = 0;
  const int* used = nullptr;  // device memory; nullptr: all
};

// Weights are read 16 bytes at a time: an Error where they begin at another address.
inline base::Result<void> check_weights(const void* data) {
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    return {};
  }
  return base::Error{
      "a tensor in GPU memory", "its address is no multiple of 16",
      "write the GGUF file with general.alignment 32, the default, or keep its layers on the CPU "
      "(--n-gpu-layers)"};
}

}  // namespace kernels::cuda
