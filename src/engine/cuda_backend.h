#pragma once
// The backend over kernels/cuda. It compiles everywhere, and links where those kernels are: as ar_cuda, or as host C++ in
// tests/simt.

#include "src/engine/gpu.h"

namespace engine {

base::Result<std::shared_ptr<Gpu>> open_cuda_gpu();

}  // namespace engine
