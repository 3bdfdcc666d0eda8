#pragma once
// The walker's operations on the CPU: one instance per worker of a parallel region, all making the same
// calls.

#include <algorithm>
#include <initializer_list>

#include "kernels/threads.h"
#include "src/engine/cpu_attention.h"
#include "src/engine/cpu_memory.h"
#include "src/engine/rope.h"
#include "src/engine/walker.h"

namespace engine {

// What the workers of a region share.
struct CpuRegion {
  const Model& model;
  const KvPlan& kv;
  const KvArena& arena;
  const Workspace& space;
  const RopeTable& rope;
  const Step& step;
  Activations act;  // the workspace's, with h
  float* logits = nullptr;
  int64_t* experts_read = nullptr;  // one worker of a part adds to it
};

class CpuOps {
 public:
  CpuOps(const CpuRegion& region, kernels::Worker& worker);

  const Activations& activations() const { return region_.act; }

  // Fills the step's cos_sin table; before the first attn_part of a region.
  void prepare_rope();
  void embed(const kernels::Matrix& table, float* y);
  void norm_linear(const float* h, const float* weight, float* x, std::initializer_list<Product> products);
  void rotate_and_store(int layer, const float* q, const float* k, const float* v, float* out);
  void attention(int layer, const float* q, float* a);
  void linear_add(const float* x, const kernels::Matrix& w, float* tmp, float* y);
  void norm_swiglu(const float* h, const float* weight, float* x, const kernels::Matrix& w_gate,
                   const kernels::Matrix& w_up, float* gate, float* up);
  void experts(float* h, const LayerWeights& w, float* x);  // cpu_experts.cc
  void head(const float* h, const float* weight, float* x, const kernels::Matrix& output);

 private:
  // A block of query rows of one sequence.
  struct Block {
    const SeqRows* seq;
    int first, rows;  // within the sequence's rows of this step
  };
  static size_t at(int64_t row, int64_t stride) { return static_cast<size_t>(row * stride); }
  // Pieces small enough to balance big and little cores, large enough that the counter costs nothing; whole
  // fours, which kernels::matmul likes best.
  static int64_t chunk_rows(int64_t rows, int n_workers) {
    return std::clamp<int64_t>(rows / (int64_t{n_workers} * 8), 8, 64) / 4 * 4;
  }
  int n_rows() const { return static_cast<int>(region_.step.token.size()); }
  // Norms of rows: shared by all workers, or of one row that each worker norms for itself, within the first piece of
  // work that needs it (kernels/threads.h says why not before).
  struct Normed {
    float* x = nullptr;
    const float *row = nullptr, *weight = nullptr;  // what is still to be done; nullptr: nothing
  };
  Normed norm(const float* h, const float* weight, float* x);  // of every row
  template <class RowOf>
  Normed norm_some(int n, RowOf row_of, const float* h, const float* weight, float* x);
  const float* ready(Normed& normed) const;
  void linear(Normed& x, int n_rows, std::initializer_list<Product> products);
  Block block_at(int64_t index, int rows_per_block) const;
  int64_t count_blocks(int rows_per_block) const;
  void attend_block(int layer, int head, const Block& block, const float* q, float* a);
  void attend_split(int layer, const float* q, float* a, int max_chunks);
  Partial split_slot(int64_t index, const KvLayer& kv) const;
  void experts_of_one(float* h, const LayerWeights& w, const kernels::Router& router, Normed& normed);
  void experts_of_many(float* h, const LayerWeights& w, const kernels::Router& router, const float* normed);
  void group_by_expert() const;
  void multiply(const kernels::Matrix& w, int64_t row0, int64_t row1, const float* x, int n_rows, float* y);

  const CpuRegion& region_;
  kernels::Worker& worker_;
  const ThreadScratch& scratch_;
};

}  // namespace engine
