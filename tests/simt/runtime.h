#pragma once
// What tests set of the shim's GPU (kernels/cuda/runtime.h).

#include <cstdint>

namespace simt {

// How much memory it has; 1 GiB at first.
void set_device_memory(uint64_t bytes);
// Whether there is one.
void set_device_present(bool present);
// Whether graphs can be recorded.
void set_graphs(bool allowed);
// Whether memory of the host can be locked, and how many pieces are.
void set_locks(bool allowed);
int locked();
// Graphs launched so far, and recorded.
int graphs_launched();
int graphs_captured();

}  // namespace simt
