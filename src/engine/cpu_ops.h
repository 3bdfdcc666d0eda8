#pragma once
// The walker's operations on the CPU: one instance per worker of a parallel region, all making the same
// calls.

#include <algorithm>
#include <initializer_list>
#include <span>

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
  const ExactArena& exact;
  const Workspace& space;
  const RopeTable& rope;
  const Step& step;
  Activations act;  // the workspace's, with h
  float* logits = nullptr;
  int64_t* experts_read = nullptr;  // one worker of a part adds to it
};

// Rows that products read: as floats, and rounded to int8 in the groups that some of the products take.
struct ProductRows {
  const float* x = nullptr;
  DotSpace dots;

  const kernels::DotBlock* quantized_for(const kernels::Matrix& w) const {
    const int group = kernels::dot_group(*w.format);
    return group == 32 ? dots.by_32 : group == 256 ? dots.by_256 : nullptr;
  }
  // Row `first` and on, of `cols` values each.
  ProductRows from(int64_t first, int64_t cols) const {
    const int64_t blocks = first * kernels::dot_blocks(cols);
    return {x == nullptr ? nullptr : x + first * cols,
            {dots.by_32 == nullptr ? nullptr : dots.by_32 + blocks,
             dots.by_256 == nullptr ? nullptr : dots.by_256 + blocks}};
  }
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
  // sixteens, which kernels::matmul likes best.
  static int64_t chunk_rows(int64_t rows, int n_workers) {
    return std::clamp<int64_t>(rows / (int64_t{n_workers} * 8), 16, 64) / 16 * 16;
  }
  int n_rows() const { return static_cast<int>(region_.step.token.size()); }
  // Norms of rows: shared by all workers, or of one row that each worker norms for itself, within the first piece of
  // work that needs it (kernels/threads.h says why not before).
  struct Normed {
    const float* x = nullptr;
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
  void keep_copies(int layer);
  AttentionHead source_of(int layer, int head, const SeqRows& seq) const;
  Partial split_slot(int64_t index, const KvLayer& kv) const;
  void experts_of_one(float* h, const LayerWeights& w, const kernels::Router& router, Normed& normed);
  void experts_of_many(float* h, const LayerWeights& w, const kernels::Router& router, const float* normed);
  void group_by_expert() const;
  void multiply(const kernels::Matrix& w, int64_t row0, int64_t row1, const ProductRows& x, int n_rows,
                float* y);
  using Matrices = std::span<const kernels::Matrix* const>;
  // Where rows for `weights` are rounded to: the groups of `space` that one of them takes. Row `row` of such.
  static DotSpace wanted(const DotSpace& space, Matrices weights);
  static void round_row(const float* x, int64_t cols, const DotSpace& to, int64_t row);
  // n rows that products with some weights read, rounded for them: by all workers together; or by each for itself,
  // which is cheaper than meeting where the rows are few, within the first piece of work that needs them.
  struct Input {
    Normed& rows;
    int64_t n, cols;
    DotSpace dots;
    bool unrounded;  // still to be done by this worker
  };
  Input round_together(Normed& rows, int64_t n, int64_t cols, Matrices weights);
  Input round_alone(Normed& rows, int64_t n, int64_t cols, Matrices weights) const;
  Input round_rows(Normed& rows, int64_t n, int64_t cols, Matrices weights) {
    return n == 1 ? round_alone(rows, n, cols, weights) : round_together(rows, n, cols, weights);
  }
  ProductRows ready(Input& input) const;

  const CpuRegion& region_;
  kernels::Worker& worker_;
  const ThreadScratch& scratch_;
};

}  // namespace engine
