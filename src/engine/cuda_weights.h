#pragma once
// Weights of the parts of a model on the device: uploaded, or left where the host has them.

#include <memory>

#include "kernels/cuda/runtime.h"
#include "src/engine/backend.h"

namespace engine {

// One part's, with device pointers; what other parts have is empty.
struct PartWeights {
  kernels::cuda::Memory memory;
  LayerWeights layer;                           // kAttn or kFfn
  kernels::Matrix token_embd, output;           // kEmbed; kHead
  const float* output_norm = nullptr;           // kHead
  std::shared_ptr<const PartWeights> borrowed;  // whose table `output` is, where the two are tied
};

// How matrices get there: in place only those that are aligned as kernels need them.
struct WeightPlacing {
  bool in_place = false;
  bool has_embed = false;  // the token table is there too: a tied output is the same
};

// Bytes of device memory for a part.
uint64_t part_bytes(const Model& model, PartId id, WeightPlacing placing);

// Copies through pinned memory, two buffers in turn; says how far it is every few seconds.
class WeightUpload {
 public:
  // For `total` bytes in all.
  static base::Result<WeightUpload> begin(uint64_t total);
  // embed: the token table on the device, or nullptr.
  base::Result<std::shared_ptr<const PartWeights>> part(const Model& model, PartId id, WeightPlacing placing,
                                                        const std::shared_ptr<const PartWeights>& embed);
  // Waits for the last copy, and says what was copied and how fast.
  base::Result<void> end();

 private:
  struct Buffer {
    kernels::cuda::Memory memory;
    kernels::cuda::OwnStream stream;
  };
  base::Result<void> copy(std::byte* to, const void* from, uint64_t bytes);
  void tell();

  Buffer buffers_[2];
  int next_ = 0;
  uint64_t total_ = 0, done_ = 0;
  double began_s_ = 0, told_s_ = 0;
};

}  // namespace engine
