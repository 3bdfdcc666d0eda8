#pragma once
// The seam between the engine and what computes: no CUDA, thread or HTTP type in it. A Backend owns weights
// of some parts of the model; a Session owns a KV arena and a workspace and runs segments. run() never
// allocates.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/formats/formats.h"
#include "src/base/error.h"
#include "src/engine/exact_pages.h"
#include "src/engine/kv_table.h"
#include "src/engine/model.h"

namespace engine {

struct KvMeans;

enum class Part { kEmbed, kAttn, kFfn, kHead };  // layer halves, so that experts on the CPU fit too
struct PartId {
  Part part = Part::kEmbed;
  int layer = 0;
  // Position in the order of execution: embed, attn 0, ffn 0, attn 1, ... head.
  int order(int n_layer) const;
  // The part at a position; positions are 0..2 * n_layer + 1.
  static PartId at(int order, int n_layer);
};
struct Segment {
  PartId first, last;  // inclusive; one CUDA graph or one CPU parallel region
};
struct LayerSpan {  // inclusive; first > last: none
  int first = 0, last = -1;
};
LayerSpan attention_layers(const Segment& parts, int n_layer);

struct KvLayer {
  const kernels::KvFormat *k = nullptr, *v = nullptr;
  int heads = 0, dim_k = 0, dim_v = 0, group = 1;  // KV heads; query heads per KV head
  // Rows are rotated (kernels::rotate_head) before they are written, for formats that do not do so themselves.
  bool rotate_k = false, rotate_v = false;
  // Queries are rounded to int8 for formats with integer scores (KvFormat::score_rounded).
  bool rounded_scores = false;
  // (heads, dim_k) and (heads, dim_v), in the model's basis: taken from every row before it is stored (kv_means.h).
  // nullptr: nothing is.
  const float *k_mean = nullptr, *v_mean = nullptr;
  // What copies of sink and tail are stored as, in the basis of the others; nullptr: the side needs none.
  const kernels::KvFormat *exact_k = nullptr, *exact_v = nullptr;
  // Of one page, all heads, K and V; a side without a format has none.
  uint64_t page_bytes() const;
  // The basis rows are stored in is the rotated one.
  bool k_rotated() const { return k->rotated || rotate_k; }
  bool v_rotated() const { return v->rotated || rotate_v; }
};
struct KvPlan {
  int page_tokens = kernels::kPageTokens;
  int n_pages = 0, n_seqs = 1;
  int seq_pages = 0;  // most pages of one sequence
  std::vector<KvLayer> layers;
  std::shared_ptr<const KvMeans> means;  // what the layers' means point into
  ExactPlan exact;
  // The arena: sum over layers of n_pages * heads * (K page + V page), and that of copies().
  uint64_t bytes() const;
  // The copies of sinks and tails as a cache of their own, page = ExactPlan::slot(); nothing in the step's own pages.
  KvPlan copies() const;
};

struct BackendOptions {
  int n_threads = 1;        // decode
  int n_threads_batch = 1;  // steps of more than one token
  int n_ubatch = 512;       // most tokens of one Step
  // Activations are rounded to int8 for products with weights that have integer dots (kernels/dots.h).
  bool quantized_activations = true;
};

struct SeqRows {
  int seq = 0, row0 = 0, n = 0,
      n_past = 0;              // rows row0..row0+n of the step continue a sequence of n_past rows
  std::span<const int> pages;  // its pages, room for n_past + n rows included
  ExactRows exact = {};
};
struct Step {  // prefill, decode, verify and mixed alike
  std::span<const int> token, pos;
  std::span<const SeqRows> seqs;
  std::span<const int> logit_rows;  // rows whose logits are wanted, ascending
};

struct Hidden {  // the residual stream between segments: [rows x n_embd]
  float* data = nullptr;
  bool read = true;  // what the segment leaves there; false: by nobody
};
struct Logits {  // [logit_rows x n_vocab]
  float* data = nullptr;
};

struct Need {
  uint64_t weights = 0, kv = 0, workspace = 0;  // bytes
  std::vector<std::string> fallbacks;           // what will run slower than it could, and why
};

enum class CopyDirection { kToHost, kFromHost };

class Session {
 public:
  virtual ~Session() = default;
  // Runs the parts first..last over the step. kEmbed fills io, later parts update it, kHead writes out (may
  // be null otherwise). Results are there after sync(); after an error nothing is under way. Errors are faults of the
  // device, never of the input: the caller checked tokens and positions.
  virtual base::Result<void> run(const Segment& segment, const Step& step, Hidden io, Logits* out) = 0;
  virtual base::Result<void> kv_copy(std::span<const PageCopy> copies) = 0;
  // The same among the pages of KvPlan::copies().
  virtual base::Result<void> exact_copy(std::span<const PageCopy> copies) = 0;
  // A page's raw bytes of one layer (all heads, K then V), for saved state and tests.
  virtual base::Result<void> kv_rows(int layer, int page, std::span<std::byte> bytes,
                                     CopyDirection direction) = 0;
  virtual base::Result<void> sync() = 0;
  // Memory that io and out will lie in, and that outlives the Session: a device may lock it, for faster copies.
  virtual void lend(std::span<std::byte> memory) = 0;
  // Experts whose weights run() has read so far, those of each layer counted apart; 0 in a dense model.
  virtual int64_t experts_read() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string caps() const = 0;  // "cpu AVX3_ZEN4", for /props and the journal
  // Pure: what open() would take after bind(model, parts).
  virtual base::Result<Need> plan(const Model& model, const Segment& parts, const KvPlan& kv,
                                  const BackendOptions& options) const = 0;
  virtual base::Result<void> bind(std::shared_ptr<const Model> model, const Segment& parts) = 0;
  virtual base::Result<std::unique_ptr<Session>> open(const KvPlan& kv, const BackendOptions& options) = 0;
};

std::unique_ptr<Backend> make_cpu_backend();

}  // namespace engine
