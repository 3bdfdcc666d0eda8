#pragma once
// One text, one model, several cache types: a context for each pair over the same weights, all of them going over each
// chunk of the text together, so that every token's distributions are compared while both are there.
// Memory beside the weights: every pair's KV cache of one chunk and workspace, and kReferenceBytes of the reference's logits.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/engine/evaluation.h"
#include "src/engine/model.h"

namespace engine {

class Gpu;

// At most, but for a vocabulary of which not even one row fits.
inline constexpr size_t kReferenceBytes = size_t{256} << 20;

struct KvPair {
  std::string k = "f16", v = "f16";  // names of the table in kernels/formats
  std::string name() const { return k + "/" + v; }
  bool operator==(const KvPair&) const = default;
};

struct EvaluationOptions {
  std::vector<KvPair> pairs;  // the first is what the others are compared with
  int n_ctx = 512;            // tokens of a chunk, 4 or more
  int n_chunks = 0;           // the first so many; 0 = all
  int n_ubatch = 512;
  int n_threads = 0;      // 0 = physical cores
  int n_gpu_layers = -2;  // as ContextOptions has the two
  std::shared_ptr<Gpu> gpu = nullptr;
  // As ContextOptions has them, of every pair but the first; kv_means where kv_center is not "off".
  std::string kv_first_last = "off", kv_center = "off";
  std::shared_ptr<const KvMeans> kv_means = nullptr;
  int kv_sink = 0, kv_tail = 0;  // of quantized caches, as in ContextOptions
  // Tokens decoded one by one at the end of each chunk, to time them, and how often. 0 = none.
  int n_decode = 32, n_decode_repeats = 1;
};

struct PairEvaluation {
  KvPair pair;
  uint64_t kv_bytes = 0;  // of a cache of Evaluation::n_ctx_allocated tokens
  double bits_per_value = 0, k_bits = 0, v_bits = 0;
  bool k_rotated = false, v_rotated = false;             // whether its rows are stored rotated
  std::string kv_first_last = "off", kv_center_id = {};  // as ContextInfo has them
  uint64_t exact_bytes = 0;                              // of kv_bytes, copies of sink and tail in f16
  TokenLosses losses = {};
  std::vector<double> decode_s = {};  // of each token timed
};

struct Evaluation {
  int n_ctx = 0, n_ctx_allocated = 0;  // of a chunk; of a cache, which is padded
  int n_ubatch = 0, n_threads = 0, bos = -1;
  int kv_sink = 0, kv_tail = 0;  // of the options
  size_t n_chunks = 0, n_chunks_done = 0;
  size_t n_tokens = 0;               // scored so far
  std::string backend, activations;  // as ContextInfo has them
  std::vector<std::string> warnings;
  std::vector<PairEvaluation> pairs;  // as in the options
};

// Called when the contexts are open (n_chunks_done 0) and after each chunk; an Error ends the evaluation.
using OnChunk = std::function<base::Result<void>(const Evaluation& so_far)>;

// `bos`: Tokenizer::bos() where adds_bos(), else -1. Errors: a text shorter than a chunk, an unknown type, what does not
// fit into memory, logits that are no numbers (with the pair and the chunk).
base::Result<Evaluation> evaluate(const std::shared_ptr<const Model>& model, std::span<const int> tokens,
                                  int bos, const EvaluationOptions& options, const OnChunk& on_chunk);

}  // namespace engine
