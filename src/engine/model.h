#pragma once
// A model as the forward pass sees it: hyperparameters and views of its weights, in place in the mapped file.
// Architectures are rows of a table (architectures.cc) over one forward pass.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.h"
#include "kernels/route.h"
#include "src/base/error.h"
#include "src/gguf/gguf.h"

namespace engine {

enum class RopeKind { kNorm, kNeox };

struct HParams {
  std::string architecture;
  int n_layer = 0, n_embd = 0, n_vocab = 0;
  int n_ff = 0;                   // of one expert, in a mixture of experts
  int n_head = 0, n_head_kv = 0;  // query heads and KV heads; group = n_head / n_head_kv
  int head_dim = 0;               // independent of n_embd / n_head
  int n_rot = 0;                  // rotated dims of a head
  int n_ctx_train = 0;
  float rms_eps = 0, rope_freq_base = 10000, rope_freq_scale = 1;
  RopeKind rope = RopeKind::kNorm;
  // YaRN (rope.h); ext_factor 0 = off. n_ctx_orig: the context the model knew before it was stretched.
  float yarn_ext_factor = 0, rope_attn_factor = 1, yarn_beta_fast = 32, yarn_beta_slow = 1;
  int n_ctx_orig = 0;
  bool qk_norm_all = false;             // the norm of queries and keys goes over all heads, not over each
  int n_expert = 0, n_expert_used = 0;  // 0: dense
  kernels::Gating gating = kernels::Gating::kSoftmax;
  float expert_scale = 1;  // of the weights of the experts
};

// One matrix per expert, one after the other in the file.
struct Experts {
  kernels::Matrix first;
  size_t bytes = 0;  // of one
  kernels::Matrix at(int expert) const {
    kernels::Matrix one = first;
    one.data += static_cast<size_t>(expert) * bytes;
    return one;
  }
};

struct LayerWeights {
  const float* attn_norm = nullptr;  // (n_embd)
  kernels::Matrix q, k, v,
      o;  // (n_head*head_dim, n_embd), (n_head_kv*head_dim, n_embd) x2, (n_embd, n_head*head_dim)
  // As long as q, k and v have rows; nullptr where the architecture has none.
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
  const float *q_norm = nullptr, *k_norm = nullptr;  // (head_dim), or all heads where qk_norm_all; or nullptr
  const float* ffn_norm = nullptr;                   // (n_embd)
  // Dense:
  kernels::Matrix gate, up, down;  // (n_ff, n_embd) x2, (n_embd, n_ff)
  // A mixture of experts:
  kernels::Matrix router;                 // (n_expert, n_embd)
  const float* router_bias = nullptr;     // (n_expert), for the choice alone; or nullptr
  Experts gate_exps, up_exps, down_exps;  // n_expert of gate, up and down
};

struct LoadOptions {
  bool mmap = true;    // false: read the file into anonymous memory
  bool mlock = false;  // lock the weights; failing is a warning, as in llama-server
};

struct Model {
  std::string path;
  HParams hp;
  gguf::File file;             // metadata stays: tokenizer, chat template, /props
  kernels::Matrix token_embd;  // (n_vocab, n_embd)
  kernels::Matrix output;      // (n_vocab, n_embd); token_embd's when tied
  const float* output_norm = nullptr;
  const float* rope_factors = nullptr;  // (n_rot/2) divisors, or nullptr
  std::vector<LayerWeights> layers;
  uint64_t weight_bytes = 0, n_params = 0;
  uint64_t expert_bytes = 0;  // the share of weight_bytes that lies in experts
  uint64_t fingerprint = 0;   // of the header and a sample of every tensor: tells files apart, no checksum
  bool mapped = true;         // the weights are pages of the file, which the kernel may drop
  std::shared_ptr<const void> storage;        // keeps the bytes alive
  std::vector<std::vector<float>> converted;  // small norm vectors stored in another type than f32
};

// What a step reads of the weights when it has touched `experts` experts in all, each layer counted apart.
// Rows of the embedding table are left out.
uint64_t bytes_per_step(const Model& model, int64_t experts);
// Of a decode step of one token.
uint64_t bytes_per_token(const Model& model);

// Errors name the file and the key or tensor, and what would be accepted.
base::Result<std::shared_ptr<const Model>> load_model(const std::string& path, const LoadOptions& options);

}  // namespace engine
