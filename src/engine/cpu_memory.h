#pragma once
// Where a CPU session keeps things: the KV arena's addresses and the workspace's layout. Sizes are known at
// open().

#include <span>
#include <vector>

#include "kernels/dots.h"
#include "src/engine/arena.h"
#include "src/engine/backend.h"
#include "src/engine/walker.h"

namespace engine {

// Tokens of context that one pass of attention covers. Fixed: results must not depend on how work is split.
inline constexpr int kChunkTokens = 4 * kernels::kPageTokens;
// Query vectors that share one reading of a page.
inline constexpr int kBlockQueries = 32;

// The KV arena: for each layer of the session's attention parts, each page: all heads' K, then all heads' V.
class KvArena {
 public:
  KvArena() = default;
  // base may be nullptr, to know bytes() alone. Layers outside [first_layer, last_layer] have no memory.
  KvArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* base);

  uint64_t bytes() const { return bytes_; }
  bool has(int layer) const { return layers_[static_cast<size_t>(layer)].base != nullptr; }
  int n_layers() const { return static_cast<int>(layers_.size()); }
  std::byte* k(int layer, int page, int head) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return at.base + static_cast<size_t>(page) * at.page_bytes + static_cast<size_t>(head) * at.k_bytes;
  }
  std::byte* v(int layer, int page, int head) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return at.base + static_cast<size_t>(page) * at.page_bytes + at.v_offset +
           static_cast<size_t>(head) * at.v_bytes;
  }
  // All of a page in one layer.
  std::span<std::byte> page(int layer, int page) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return {at.base + static_cast<size_t>(page) * at.page_bytes, at.page_bytes};
  }
  // The same, where the caller may ask for what is not here, or has room for another number of bytes.
  base::Result<std::span<std::byte>> checked_page(int layer, int page, size_t bytes) const;

 private:
  struct Layer {
    std::byte* base = nullptr;
    size_t page_bytes = 0, k_bytes = 0, v_bytes = 0, v_offset = 0;
  };
  std::vector<Layer> layers_;
  int n_pages_ = 0;
  uint64_t bytes_ = 0;
};

// The copies of sinks and tails in f16 (exact_pages.h): those that stay, and the running step's new pages, which all
// layers use in turn.
class ExactArena {
 public:
  ExactArena() = default;
  // kept: bytes() of them, and step: Workspace::exact; nullptr as KvArena's.
  ExactArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* kept, std::byte* step);

  uint64_t bytes() const { return kept_.bytes(); }
  const KvArena& kept() const { return kept_; }
  const ExactPlan& plan() const { return plan_; }
  // A page of a sequence that has or gets a copy.
  std::byte* k(int layer, const SeqRows& seq, int page, int head) const {
    return stays(seq, page) ? kept_.k(layer, plan_.slot(seq.seq, page), head)
                            : step_.k(0, step_page(seq, page), head);
  }
  std::byte* v(int layer, const SeqRows& seq, int page, int head) const {
    return stays(seq, page) ? kept_.v(layer, plan_.slot(seq.seq, page), head)
                            : step_.v(0, step_page(seq, page), head);
  }
  // Where a page of the step will stay.
  std::byte* kept_k(int layer, const SeqRows& seq, int page, int head) const {
    return kept_.k(layer, plan_.slot(seq.seq, page), head);
  }
  std::byte* kept_v(int layer, const SeqRows& seq, int page, int head) const {
    return kept_.v(layer, plan_.slot(seq.seq, page), head);
  }

 private:
  static bool stays(const SeqRows& seq, int page) { return page <= seq.exact.stays; }
  static int step_page(const SeqRows& seq, int page) { return seq.exact.step0 + page - seq.exact.stays - 1; }

  ExactPlan plan_;
  KvArena kept_, step_;
};

// A softmax over part of the context, unnormalised: sum of exp(score - max) * V row. n queries.
struct Partial {
  float *max = nullptr, *sum = nullptr;  // [n]
  float* acc = nullptr;                  // [n x dim_v]
};

// Activations rounded to int8, for the products of a step (kernels/dots.h): in groups of 32 and of 256, each where the
// model has weights that take them so, else nullptr.
struct DotSpace {
  kernels::DotBlock *by_32 = nullptr, *by_256 = nullptr;
};

struct ThreadScratch {
  float* norm = nullptr;    // [n_embd]
  DotSpace dots;            // of one row, or of what the experts of one row give
  float* query = nullptr;   // [queries x dim_k], queries > kBlockQueries / 2
  float* scores = nullptr;  // [queries x kChunkTokens]
  int* visible = nullptr;   // [queries]: how many tokens of the sequence each may see
  Partial chunk, total;
  // The experts of a step's only row (cpu_experts.cc), which every worker chooses for itself:
  float* expert_logits = nullptr;  // [n_expert]
  int* chosen = nullptr;           // [n_expert_used]
  float* expert_weight = nullptr;  // [n_expert_used]
};

// The rows of a step by experts. A slot is a row together with one of its experts; slots are ordered by expert,
// then by row, so that each expert's are neighbours.
struct ExpertSpace {
  float* logits = nullptr;  // (rows, n_expert): the router's
  int* chosen = nullptr;    // (rows, n_expert_used), best first
  float* weight = nullptr;  // (rows, n_expert_used)
  int* slot = nullptr;      // (rows, n_expert_used): where each of chosen is
  int* row_of = nullptr;    // [slots]
  int* begin = nullptr;     // [n_expert + 1]: the first slot of an expert
  int* by_size = nullptr;   // [n_expert]: experts that have slots, those with most first
  int* n_active = nullptr;  // [1]: how many have
  float* x = nullptr;       // (slots, n_embd): what experts read, then what they give
};

struct Workspace {
  Activations act;
  float* cos_sin = nullptr;  // (rows, n_rot)
  ExpertSpace experts;       // nothing in a dense model
  DotSpace dots;             // (rows or slots, of the widest input of a product)
  std::vector<ThreadScratch> threads;
  // For decode, where heads are too few to share out: one Partial of `group` queries per item and chunk of
  // context.
  float* split = nullptr;
  int64_t split_slots = 0, split_stride = 0;  // stride in floats
  std::byte* exact = nullptr;                 // for ExactArena

  // base may be nullptr, to know the size alone.
  static Workspace lay_out(const Model& model, const KvPlan& kv, const BackendOptions& options,
                           std::byte* base, uint64_t& bytes);
};

// Query rows of one block of attention.
inline int block_rows(int group) {
  return group >= kBlockQueries ? 1 : kBlockQueries / group;
}

}  // namespace engine
