#pragma once
// Where a session on the GPU keeps things: the layout of its workspace there, what a step tells the kernels, and what
// they have room for. Sizes are known at open().

#include <string>
#include <vector>

#include "kernels/dots.h"
#include "src/engine/arena.h"
#include "src/engine/cuda_weights.h"
#include "src/engine/kv_arena.h"
#include "src/engine/walker.h"

namespace engine {

// Up to so many rows of a step are multiplied as decode is (activations as int8, kernels/cuda/mat_vec.h) and run as a
// graph; more are on tensor cores.
inline constexpr int kFewRows = 16;
// Rows whose logits are computed together.
inline constexpr int kHeadRows = 32;

// What a step tells the kernels: the same layout in pinned memory, where it is written, and on the device.
struct StepInputs {
  int* used = nullptr;  // [3]: rows, slots (rows with each of their experts), rows with logits
  // Of each row: token; page of the cache, slot there, page of the copies or -1; tokens it sees, its row of the tables.
  int *token = nullptr, *page = nullptr, *slot = nullptr, *copy = nullptr, *visible = nullptr,
      *table = nullptr;
  int* logit_row = nullptr;  // [logits]
  uint64_t head_bytes = 0;   // of all so far, which are copied together
  float* cos_sin = nullptr;  // (rows, n_rot)
  // (sequences of the step, seq_pages): a sequence's pages, and where the copies are that it has of them, or -1.
  int *pages = nullptr, *copies = nullptr;

  static StepInputs lay_out(const Model& model, const KvPlan& kv, int n_ubatch, Carver& carver);
};

struct CudaExperts {
  float *logits = nullptr, *weight = nullptr;  // (rows, n_expert), (rows, n_expert_used)
  int* chosen = nullptr;                       // (layers, rows, n_expert_used)
  int* groups = nullptr;                       // a layer's slots by expert (kernels/cuda/gemm.h)
  float* x = nullptr;                          // (slots, n_embd)
};

struct CudaSpace {
  StepInputs in;
  Activations act;
  DotSpace dots;
  uint16_t* halves = nullptr;  // rows as float16
  float* ones = nullptr;       // [rows]
  CudaExperts experts;
  float* partial = nullptr;                    // of attention
  float *head_x = nullptr, *logits = nullptr;  // (kHeadRows, n_embd), (kHeadRows, n_vocab)
  float* means = nullptr;                      // as KvMeans::values

  // base may be nullptr, to know the size alone.
  static CudaSpace lay_out(const Model& model, const KvPlan& kv, const BackendOptions& options,
                           std::byte* base, uint64_t& bytes);
};

// The copies of sink and tail on the device: those that stay, and behind them in every layer those that a step begins.
KvPlan device_copies(const KvPlan& kv);

// An Error where a kernel lacks what parts of the model, the cache or the options want: which, and what to do instead.
base::Result<void> check_kernels(const Model& model, const Segment& parts, const KvPlan& kv,
                                 const BackendOptions& options);

}  // namespace engine
