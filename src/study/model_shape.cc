// The shape of a model from GGUF metadata, its parts found and counted.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "src/gguf/model_files.h"
#include "src/study/memory_estimate.h"

namespace study {
namespace {

// Beyond these no model goes; a damaged file must not make a loop of 2^60 layers.
constexpr int64_t kMaxLayers = 4096, kMaxHeads = 65536, kMaxDim = 65536, kMaxWidth = int64_t{1} << 32;

// Plain attention in every layer, every token kept. What is not here is estimated, but forbids nothing.
constexpr std::string_view kPlain[] = {"llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "minimax-m2"};
// Keys by which even a plain architecture keeps less than every token's rows.
constexpr std::string_view kKeepsLess[] = {"attention.sliding_window", "attention.kv_lora_rank",
                                           "attention.chunk_size", "attention.shared_kv_layers",
                                           "full_attention_interval"};

class Keys {
 public:
  Keys(const gguf::File& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  bool has(std::string_view name) const { return file_.metadata.contains(prefix_ + std::string(name)); }

  // A whole number, or the array of them that some models have (one per layer); absent: `fallback`.
  std::vector<int64_t> list(std::string_view name, int64_t fallback, int64_t most) {
    std::string key = prefix_ + std::string(name);
    std::vector<int64_t> values;
    if (const gguf::Array* array = file_.get_array(key)) {
      values = array->ints;
    } else {
      values = {file_.get_int(key).value_or(fallback)};
    }
    for (int64_t value : values) {
      if ((value < 0 || value > most) && failure_.empty()) {
        failure_ = fmt::format("metadata key '{}' is {}, which no model has", key, value);
      }
    }
    return values;
  }

  int64_t largest(std::string_view name, int64_t fallback, int64_t most) {
    std::vector<int64_t> values = list(name, fallback, most);
    return values.empty() ? fallback : *std::max_element(values.begin(), values.end());
  }

  const std::string& failure() const { return failure_; }

 private:
  const gguf::File& file_;
  std::string prefix_, failure_;
};

// "blk.17.attn_q.weight" -> 17.
std::optional<size_t> layer_of(std::string_view tensor) {
  constexpr std::string_view kPrefix = "blk.";
  if (!tensor.starts_with(kPrefix)) {
    return std::nullopt;
  }
  size_t layer = 0;
  const char* end = tensor.data() + tensor.size();
  auto [rest, bad] = std::from_chars(tensor.data() + kPrefix.size(), end, layer);
  return bad == std::errc() && rest != end && *rest == '.' && layer < kMaxLayers ? std::optional(layer)
                                                                                 : std::nullopt;
}

// Values that share a scale where tbq-server multiplies a weight type (its GGUF id) in integers; 0: it does not.
int dot_group(uint32_t type) {
  constexpr std::array<uint32_t, 6> kBy32 = {2, 3, 6, 7, 8, 20};        // Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL
  constexpr std::array<uint32_t, 6> kBy256 = {10, 11, 12, 13, 14, 23};  // Q2_K to Q6_K, IQ4_XS
  const auto in = [type](const auto& types) { return std::ranges::find(types, type) != types.end(); };
  return in(kBy32) ? 32 : in(kBy256) ? 256 : 0;
}

void add_tensors(const gguf::File& file, ModelShape& shape) {
  bool by_32 = false, by_256 = false;
  const bool tied = file.find("output.weight") == nullptr;  // else the embeddings are only looked up
  for (const gguf::Tensor& tensor : file.tensors) {
    shape.weight_bytes += tensor.bytes;  // each lies within its file: no overflow
    const int group = tied || tensor.name != "token_embd.weight" ? dot_group(tensor.type) : 0;
    by_32 = by_32 || group == 32;
    by_256 = by_256 || group == 256;
    if (auto layer = layer_of(tensor.name)) {
      shape.layer_bytes.resize(std::max(shape.layer_bytes.size(), *layer + 1));
      shape.layer_bytes[*layer] += tensor.bytes;
    }
  }
  shape.n_dot_groups = uint64_t{by_32} + uint64_t{by_256};
}

}  // namespace

base::Result<ModelShape> model_shape(const gguf::File& file, std::string_view where) {
  ModelShape shape;
  add_tensors(file, shape);
  shape.architecture = file.get_string("general.architecture").value_or("");
  if (shape.architecture.empty()) {
    return shape;  // weights are all that is known
  }
  Keys keys(file, shape.architecture);
  const int64_t n_layer = keys.largest("block_count", 0, kMaxLayers);
  const int64_t n_embd = keys.largest("embedding_length", 0, kMaxWidth);
  const int64_t n_head = keys.largest("attention.head_count", 0, kMaxHeads);
  const std::vector<int64_t> heads_kv = keys.list("attention.head_count_kv", n_head, kMaxHeads);
  const int64_t usual_dim = n_head > 0 ? n_embd / n_head : 0;
  const int64_t dim_k = keys.largest("attention.key_length", usual_dim, kMaxDim);
  const int64_t dim_v = keys.largest("attention.value_length", usual_dim, kMaxDim);
  shape.n_embd = static_cast<uint64_t>(n_embd);
  shape.n_head = static_cast<uint64_t>(n_head);
  shape.n_rot = static_cast<uint64_t>(keys.largest("rope.dimension_count", dim_k, kMaxDim));
  shape.n_ctx_train = static_cast<uint64_t>(keys.largest("context_length", 0, kMaxWidth));
  const int64_t n_ff = keys.largest("feed_forward_length", 0, kMaxWidth);
  const int64_t n_expert = keys.largest("expert_count", 0, kMaxHeads);
  const int64_t n_used = n_expert > 0 ? keys.largest("expert_used_count", 1, kMaxHeads) : 0;
  const int64_t expert_ff =
      keys.largest("expert_feed_forward_length", n_ff, kMaxWidth) * std::max<int64_t>(1, n_used);
  shape.n_expert = static_cast<uint64_t>(n_expert);
  shape.n_expert_used = static_cast<uint64_t>(n_used);
  shape.n_ff = static_cast<uint64_t>(std::max(n_ff, expert_ff));
  const gguf::Array* vocabulary = file.get_array("tokenizer.ggml.tokens");
  shape.n_vocab = vocabulary != nullptr ? vocabulary->size()
                                        : static_cast<uint64_t>(keys.largest("vocab_size", 0, kMaxWidth));
  if (!keys.failure().empty()) {
    return base::error(std::string(where), keys.failure(), "download or convert the model again");
  }
  if (n_layer == 0 || dim_k == 0 || dim_v == 0 ||
      (heads_kv.size() != 1 && heads_kv.size() != static_cast<size_t>(n_layer))) {
    return shape;
  }
  for (size_t i = 0; i < static_cast<size_t>(n_layer); ++i) {
    ModelShape::KvLayer layer;
    layer.heads = static_cast<uint64_t>(heads_kv[heads_kv.size() == 1 ? 0 : i]);
    layer.dim_k = static_cast<uint64_t>(dim_k);
    layer.dim_v = static_cast<uint64_t>(dim_v);
    shape.layers.push_back(layer);
  }
  shape.plain_kv = std::find(std::begin(kPlain), std::end(kPlain), shape.architecture) != std::end(kPlain) &&
                   std::none_of(std::begin(kKeepsLess), std::end(kKeepsLess),
                                [&](std::string_view key) { return keys.has(key); });
  return shape;
}

base::Result<std::optional<ModelShape>> load_model_shape(const std::string& path) {
  std::array<char, 4> magic{};
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  if (std::memcmp(magic.data(), "GGUF", magic.size()) != 0) {
    return std::optional<ModelShape>();
  }
  auto opened = gguf::open_model(path, gguf::Access::kMap);
  if (!opened) {
    return opened.failure();
  }
  auto shape = model_shape(opened->file, path);
  if (!shape) {
    return shape.failure();
  }
  return std::optional<ModelShape>(*std::move(shape));
}

}  // namespace study
