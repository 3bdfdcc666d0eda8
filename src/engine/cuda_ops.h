#pragma once
// The walker's operations on the GPU: each enqueues kernels on one stream. The first failure ends the rest, which do
// nothing then. While a graph is recorded nothing but kernels may be enqueued.

#include <initializer_list>
#include <span>

#include "kernels/cuda/kv.h"
#include "kernels/cuda/launch.h"
#include "src/engine/cuda_space.h"

namespace engine {

struct CudaRun {
  const Model& model;  // with the device's pointers
  const KvPlan& kv;
  const KvArena &arena, &copies;
  const CudaSpace& space;
  kernels::cuda::Stream stream = nullptr;
  kernels::cuda::Rows rows, slots, logit_rows;
  int most_tokens = 0;  // no row sees more
  bool quantized_activations = true;
  float* logits = nullptr;  // the host's; nullptr: they stay in space.logits, where there are few
  // Pages of copies that the step has begun move, in every layer, when its attention is done.
  std::span<const PageCopy> moves;
};

class CudaOps {
 public:
  explicit CudaOps(const CudaRun& run) : run_(run) {}

  const Activations& activations() const { return run_.space.act; }

  void embed(const kernels::Matrix& table, float* y);
  void norm_linear(const float* h, const float* weight, float* x, std::initializer_list<Product> products);
  void rotate_and_store(int layer, float* q, float* k, const float* v, const float* out);
  void attention(int layer, const float* q, float* a);
  void linear_add(const float* x, const kernels::Matrix& w, float* tmp, const float* y);
  void norm_swiglu(const float* h, const float* weight, float* x, const kernels::Matrix& w_gate,
                   const kernels::Matrix& w_up, float* gate, float* up);
  void experts(float* h, const LayerWeights& w, float* x);
  void head(const float* h, const float* weight, const float* x, const kernels::Matrix& output);
  // After the last part: nothing that a part has left to the next is left.
  base::Result<void> finish();

 private:
  using Rows = kernels::cuda::Rows;
  // Rows that products read: x, or silu(x) * up. What they are rounded to is made once, when a product wants it.
  struct Input {
    float* x = nullptr;
    const float* up = nullptr;
    int64_t cols = 0;
    Rows rows;
    bool by_32 = false, by_256 = false, halves = false;  // already made
  };
  bool ok() const { return status_.ok(); }
  void note(base::Result<void> done) {
    if (status_.ok()) {
      status_ = std::move(done);
    }
  }
  const kernels::DotBlock* rounded(Input& input, int group);
  // Many rows on tensor cores, few as decode has them.
  void multiply(Input& input, const Product& product);
  // As decode has them. With a choice each of `rows` takes one matrix of a stack, and row i reads row i / rows_per_x of
  // the input.
  struct ExpertChoice {
    const int* chosen = nullptr;
    size_t bytes = 0;
    int rows_per_x = 1;
  };
  void multiply_rows(Input& input, Rows rows, const Product& product, const ExpertChoice& choice);
  // On tensor cores; `choice` as there, its rows grouped in space.experts.groups.
  void multiply_tiles(Input& input, Rows rows, const Product& product, const ExpertChoice& choice);
  void normalise(const float* weight, float* x);
  void add_pending();
  kernels::cuda::KvSide side(int layer, bool keys) const;
  void move_copies(int layer);

  const CudaRun& run_;
  base::Result<void> status_;
  const float* pending_ = nullptr;  // still to be added to the residual stream, by the next norm
  const float* up_ = nullptr;       // what gate is still to be multiplied with
};

}  // namespace engine
