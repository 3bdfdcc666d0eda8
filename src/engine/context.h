#pragma once
// One loaded model, its backends, an open session and the KV table: what generation runs on. Not thread safe;
// one engine thread owns it.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/engine/backend.h"
#include "src/engine/model.h"

namespace engine {

struct ContextOptions {
  int n_ctx = 0;  // tokens per sequence; 0 = the model's trained context. Padded up to a multiple of 256.
  int n_seqs = 1;
  int n_batch = 2048, n_ubatch = 512;
  int n_threads = 0, n_threads_batch = 0;  // 0 = physical cores; n_threads_batch 0 = n_threads
  std::string cache_type_k = "f16", cache_type_v = "f16";
};

// What the options came to, for /props, /slots and the log.
struct ContextInfo {
  int n_ctx = 0, n_batch = 0, n_ubatch = 0, n_threads = 0, n_threads_batch = 0;
  std::string cache_type_k, cache_type_v;
  uint64_t weight_bytes = 0, kv_bytes = 0, workspace_bytes = 0;
  double k_bits_per_value = 0, v_bits_per_value = 0;
  std::string backend;
  std::vector<std::string> fallbacks;
};

class Context {
 public:
  // Plans first, so that what cannot fit (memory, bad cache type, a context beyond what can be addressed) is
  // an Error with what would fit, before anything is allocated.
  static base::Result<std::unique_ptr<Context>> open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options);
  // What open would refuse by planning alone, with `reclaimable` bytes more memory than is available now (what
  // a context that is dropped first gives back). Allocates nothing.
  static base::Result<void> check(const Model& model, const ContextOptions& options,
                                  uint64_t reclaimable = 0);
  // As open, with the model spread over several backends; cuts[i] is the first part of backend i + 1. For
  // tests of the seam and for partial offload.
  static base::Result<std::unique_ptr<Context>> open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts);
  ~Context();

  const Model& model() const;
  const ContextInfo& info() const;

  int length(int seq) const;
  void truncate(int seq, int n);
  void fork(int from, int to, int n_prefix);

  // Appends tokens to a sequence and evaluates them, ubatch by ubatch. Returns logits [n_vocab] of the last
  // token, valid until the next call. `cancelled` is asked between ubatches; when it says so the result is an
  // Error of what "cancelled" and the sequence keeps the rows evaluated so far. Errors: context full, invalid
  // token.
  base::Result<std::span<const float>> eval(int seq, std::span<const int> tokens,
                                            const std::function<bool()>& cancelled = {});
  // As eval, with the logits of every token: [tokens x n_vocab] appended to `all`. For perplexity and tests.
  base::Result<void> eval_all(int seq, std::span<const int> tokens, std::vector<float>& all);

 private:
  struct State;
  explicit Context(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace engine
