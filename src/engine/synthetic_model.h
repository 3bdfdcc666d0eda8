#pragma once
// GGUF models of random weights in the shape of any architecture of the table: speed and memory can be measured where
// the real file is not at hand, and tests get sizes and mixes of types that no file has. The same spec gives the same bytes.

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/formats/formats.h"
#include "src/base/error.h"

namespace engine {

struct SyntheticTensor {
  std::string name;
  std::vector<uint64_t> dims;  // ggml order: dims[0] is contiguous
  const kernels::WeightFormat* format = nullptr;
  uint64_t rows() const;  // of dims[0] values
  uint64_t row_bytes() const;
};

struct SyntheticSpec {
  std::string architecture = "llama";
  int n_layer = 2, n_embd = 256, n_ff = 256, n_head = 4, n_head_kv = 2, head_dim = 64, n_rot = 64;
  int n_vocab = 256, n_ctx = 2048;
  int n_expert = 0, n_expert_used = 0;
  float expert_scale = 0;                    // the key is left out at 0
  bool fused_qkv = false;                    // one tensor for queries, keys and values
  std::string type = "q8_0";                 // of matrices,
  std::map<std::string, std::string> types;  // but of these, by name: "output", "attn_k", "ffn_down_exps"
  uint32_t seed = 1;
  // Every layer's tensors are the bytes of the first's: a file of one layer that is read like one of all. Most of what a
  // step of a large model reads is still in no cache, for one layer is larger than that.
  bool one_layer = false;
  // May replace the bytes of a tensor, which it is given.
  std::function<void(const SyntheticTensor&, std::string&)> change;
};

// Types that such weights can have.
std::vector<std::string> synthetic_types();
// In the order of the file. The architecture and the types must be known.
std::vector<SyntheticTensor> tensors_of(const SyntheticSpec& spec);
std::string bytes_of(const SyntheticSpec& spec, const SyntheticTensor& tensor);
// Of the file's data, and of the largest tensor, which is in memory while the file is written.
struct SyntheticSize {
  uint64_t file = 0, largest = 0;
  uint64_t weights = 0;  // as the engine counts them: all layers
};
SyntheticSize size_of(const SyntheticSpec& spec);
// One tensor in memory at a time. The Error: the file cannot be written.
base::Result<void> write_model(const SyntheticSpec& spec, const std::string& path);

// Shapes of models that people serve.
struct SyntheticShape {
  std::string_view name, about;
  SyntheticSpec spec;
};
std::span<const SyntheticShape> synthetic_shapes();

// "8b", "minimax-m2.5,n_layer=2,type=q4_k": the name of a shape and what is to be other, by the fields' names; type.NAME
// is that of the tensors of that name. All layers share their bytes. Errors: an unknown name, field or type (with what was
// meant), a number out of range, widths that the types' blocks do not divide.
base::Result<SyntheticSpec> parse_synthetic(std::string_view config);

}  // namespace engine
