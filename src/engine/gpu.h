#pragma once
// A GPU as the engine sees it: whether there is one, what fits, and backends that compute there.

#include <memory>
#include <string>

#include "src/base/error.h"
#include "src/engine/backend.h"

namespace engine {

// Backends of one Gpu share weights: what the next context needs of those that are there stays, the rest goes when it is
// bound. Not thread safe.
class Gpu {
 public:
  virtual ~Gpu() = default;
  virtual std::string name() const = 0;  // "NVIDIA GB10"
  // Bytes that a context could have now, were the weights that are there given back; what the driver needs is left out.
  virtual base::Result<uint64_t> available() const = 0;
  // Its memory is the host's: what is taken there is missing here.
  virtual bool has_host_memory() const = 0;
  // Finds out, once for each model, whether its weights can be used in place. Before plan(), since it changes the need.
  virtual base::Result<void> look_at(const Model& model) = 0;
  virtual std::unique_ptr<Backend> make_backend() = 0;
};

// Whether this program was built with kernels for GPUs.
bool gpu_built();
// The first GPU. An Error says why there is none to use.
base::Result<std::shared_ptr<Gpu>> open_gpu();

// The GPU that so many layers (ContextOptions::n_gpu_layers) are for, nullptr where they are for none or there is none to
// use. Logs which it is; that there is none only where the build could use one.
std::shared_ptr<Gpu> choose_gpu(int n_gpu_layers);

}  // namespace engine
