#pragma once
// A CPU session's workspace. Its size is known at open().

#include <vector>

#include "kernels/formats/formats.h"
#include "src/engine/arena.h"
#include "src/engine/backend.h"
#include "src/engine/kv_arena.h"
#include "src/engine/walker.h"

namespace engine {

// Tokens of context that one pass of attention covers. Fixed: results must not depend on how work is split.
inline constexpr int kChunkTokens = 4 * kernels::kPageTokens;
// Query vectors that share one reading of a page.
inline constexpr int kBlockQueries = 32;

// A softmax over part of the context, unnormalised: sum of exp(score - max) * V row. n queries.
struct Partial {
  float *max = nullptr, *sum = nullptr;  // [n]
  float* acc = nullptr;                  // [n x dim_v]
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
