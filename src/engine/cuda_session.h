#pragma once
// A session on the GPU: a KV arena and a workspace there, and steps as graphs.

#include <memory>

#include "src/engine/cuda_space.h"

namespace engine {

// Weights with the device's pointers, and what keeps them there.
struct DeviceModel {
  std::shared_ptr<const Model> host;
  Model model;  // parts that are elsewhere are the host's
  std::vector<std::shared_ptr<const PartWeights>> parts;
};

// Bytes of the cache on the device, copies of sink and tail included.
uint64_t device_kv_bytes(const KvPlan& kv, LayerSpan layers);

base::Result<std::unique_ptr<Session>> open_cuda_session(std::shared_ptr<const DeviceModel> model,
                                                         const Segment& parts, const KvPlan& kv,
                                                         const BackendOptions& options);

}  // namespace engine
