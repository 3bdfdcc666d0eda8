#pragma once
// THE table of architectures: one row each, over one forward pass (walker.h). A row says what differs; what
// no row can say yet is refused when the model is read, never ignored.

#include <span>
#include <string>
#include <string_view>

#include "src/base/error.h"
#include "src/engine/model.h"

namespace engine {

// What the RMS norm of queries and keys, before RoPE, goes over.
enum class QkNorm {
  kNone,
  kHead,  // each head; weights (head_dim)
  kAll    // all heads of a token together; weights (heads * head_dim)
};

struct Architecture {
  std::string_view name;  // general.architecture, and the prefix of its keys
  RopeKind rope;
  bool tied_output;              // without output.weight, token_embd.weight serves
  bool whole_head_rope = false;  // n_rot must equal head_dim
  bool qkv_bias = false;         // queries, keys and values have a bias
  QkNorm qk_norm = QkNorm::kNone;
  // Every layer is a mixture of experts: always, or where the file says how many there are.
  bool experts = false, experts_where_counted = false;
  bool selection_bias = false;  // exp_probs_b.bias, added for the choice of experts alone
  bool ff_of_all_used = false;  // feed_forward_length is the width of all the experts of a token together
  kernels::Gating gating = kernels::Gating::kSoftmax;  // the only kind of this architecture's experts
};

std::span<const Architecture> architectures();
// nullptr when the name is unknown.
const Architecture* find_architecture(std::string_view name);
std::string architecture_names();  // "llama, qwen2, ...", for error messages

// The hyperparameters as the file's keys give them. n_vocab is the tokenizer's, or the vocab_size key's, or 0
// when the file has neither. Errors name `where` and the key.
base::Result<HParams> read_hparams(const gguf::File& file, const Architecture& row, const std::string& where);

}  // namespace engine
