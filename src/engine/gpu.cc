#include "src/engine/gpu.h"

#include "src/base/log.h"
#include "src/engine/context.h"
#include "src/engine/cuda_backend.h"

namespace engine {

#ifdef AR_CUDA

bool gpu_built() {
  return true;
}
base::Result<std::shared_ptr<Gpu>> open_gpu() {
  return open_cuda_gpu();
}

#else  // nothing of cuda_*.cc is linked then

bool gpu_built() {
  return false;
}
base::Result<std::shared_ptr<Gpu>> open_gpu() {
  return base::error("GPU", "this build has no kernels for one",
                     "build with -DAR_CUDA=ON (cmake --preset cuda)");
}

#endif

std::shared_ptr<Gpu> choose_gpu(int n_gpu_layers) {
  if (n_gpu_layers == 0 || !gpu_built()) {
    return nullptr;
  }
  auto gpu = open_gpu();
  if (!gpu) {
    base::log(n_gpu_layers == kAutoLayers ? base::LogLevel::kInfo : base::LogLevel::kWarn,
              "no usable GPU found, the CPU computes: {}", gpu.failure().to_string());
    return nullptr;
  }
  base::log_info("GPU: {}", (*gpu)->name());
  return *std::move(gpu);
}

}  // namespace engine
