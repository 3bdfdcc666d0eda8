#include "src/engine/architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "kernels/formats/formats.h"

namespace engine {
namespace {

constexpr std::array kArchitectures = {
    Architecture{.name = "llama",  // Mixtral too
                 .rope = RopeKind::kNorm,
                 .tied_output = true,
                 .whole_head_rope = true,
                 .experts_where_counted = true},
    Architecture{.name = "qwen2", .rope = RopeKind::kNeox, .tied_output = true, .qkv_bias = true},
    Architecture{.name = "qwen3", .rope = RopeKind::kNeox, .tied_output = true, .qk_norm = QkNorm::kHead},
    Architecture{.name = "qwen3moe",
                 .rope = RopeKind::kNeox,
                 .tied_output = true,
                 .qk_norm = QkNorm::kHead,
                 .experts = true,
                 .ff_of_all_used = true},
    Architecture{.name = "minimax-m2",
                 .rope = RopeKind::kNeox,
                 .tied_output = false,
                 .qk_norm = QkNorm::kAll,
                 .experts = true,
                 .selection_bias = true,
                 .gating = kernels::Gating::kSigmoid},
};

// Upper bounds that keep every product of sizes within 64 bits and every size within an int.
constexpr int64_t kMaxWidth = 1 << 24, kMaxLayers = 1 << 12, kMaxHeads = 1 << 16, kMaxContext = 1 << 30,
                  kMaxVocab = 1 << 28, kMaxExperts = 1 << 12, kMaxExpertsUsed = 1 << 5;

// Typed look-ups of PREFIX.key with bounds; the first failure sticks.
class Keys {
 public:
  Keys(const gguf::File& file, std::string_view prefix, const std::string& where)
      : file_(file), prefix_(prefix), where_(where) {}

  const std::optional<base::Error>& failure() const { return failure_; }

  void fail(std::string_view key, std::string what, std::string next) {
    if (!failure_) {
      failure_ = base::error(where_, fmt::format("metadata key '{}' {}", name(key), what), std::move(next));
    }
  }

  // Integer in [1, max]; a per-layer array counts when all its elements are equal.
  int integer(std::string_view key, int64_t max, std::optional<int64_t> fallback = {}) {
    std::optional<int64_t> value = file_.get_int(name(key));
    if (const gguf::Array* array = file_.get_array(name(key))) {
      if (array->ints.empty() ||
          std::ranges::adjacent_find(array->ints, std::not_equal_to<>()) != array->ints.end()) {
        fail(key, "differs from layer to layer, which is not supported", "use a model with equal layers");
        return 1;
      }
      value = array->ints.front();
    }
    if (!value && !file_.metadata.contains(name(key))) {
      value = fallback;
    }
    if (!value) {
      fail(key, "is missing or no integer", "convert the model again");
      return 1;
    }
    if (*value < 1 || *value > max) {
      fail(key, fmt::format("is {}, outside 1..{}", *value, max), "convert the model again");
      return 1;
    }
    return static_cast<int>(*value);
  }

  // A finite float in [min, max].
  float real(std::string_view key, double min, double max, std::optional<double> fallback = {}) {
    std::optional<double> value = file_.get_float(name(key));
    if (!value && !file_.metadata.contains(name(key))) {
      value = fallback;
    }
    if (!value) {
      fail(key, "is missing or no number", "convert the model again");
      return 1;
    }
    if (!(*value >= min && *value <= max)) {
      fail(key, fmt::format("is {}, outside {}..{}", *value, min, max), "convert the model again");
      return 1;
    }
    return static_cast<float>(*value);
  }

  std::string name(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }

 private:
  const gguf::File& file_;
  std::string_view prefix_;
  const std::string& where_;
  std::optional<base::Error> failure_;
};

void read_rope(const gguf::File& file, Keys& keys, HParams& hp) {
  hp.n_rot = keys.integer("rope.dimension_count", hp.head_dim, hp.head_dim);
  hp.rope_freq_base = keys.real("rope.freq_base", 1.0001, 1e12, 10000);
  hp.n_ctx_orig = keys.integer("rope.scaling.original_context_length", kMaxContext, hp.n_ctx_train);
  const std::string type = file.get_string(keys.name("rope.scaling.type")).value_or("linear");
  // 0 means "not set" in old files.
  const float legacy = keys.real("rope.scale_linear", 0, 1e6, 0);
  const float factor = keys.real("rope.scaling.factor", 0, 1e6, legacy);
  if (type != "none" && factor > 0) {
    hp.rope_freq_scale = 1 / factor;
  }
  if (type == "yarn") {
    hp.yarn_ext_factor = keys.real("rope.scaling.yarn_ext_factor", 0, 1, 1);
    hp.rope_attn_factor = keys.real("rope.scaling.attn_factor", 1e-6, 1e6, 1);
    hp.yarn_beta_fast = keys.real("rope.scaling.yarn_beta_fast", 1e-6, 1e6, 32);
    hp.yarn_beta_slow = keys.real("rope.scaling.yarn_beta_slow", 1e-6, 1e6, 1);
  } else if (type != "none" && type != "linear") {
    keys.fail("rope.scaling.type", fmt::format("is '{}', which is not supported", type),
              "use a model with rope scaling none, linear or yarn");
  }
}

// As expert_gating_func spells it; 0 or absent is the architecture's own.
int gating_id(kernels::Gating gating) {
  return gating == kernels::Gating::kSoftmax ? 1 : 2;
}

void read_experts(const gguf::File& file, const Architecture& row, Keys& keys, HParams& hp) {
  const int64_t n_expert = file.get_int(keys.name("expert_count")).value_or(0);
  if (!row.experts && !(row.experts_where_counted && n_expert != 0)) {
    if (n_expert != 0) {
      keys.fail(
          "expert_count",
          fmt::format("is {}, but a mixture of experts is not what {} models are here", n_expert, row.name),
          "use a dense model");
    }
    hp.n_ff = keys.integer("feed_forward_length", kMaxWidth);
    return;
  }
  hp.n_expert = keys.integer("expert_count", kMaxExperts);
  hp.n_expert_used = keys.integer("expert_used_count", std::min<int64_t>(hp.n_expert, kMaxExpertsUsed));
  std::optional<int64_t> width = file.get_int(keys.name("feed_forward_length"));
  if (width && row.ff_of_all_used) {
    *width /= hp.n_expert_used;  // where the file does not say the width of one
  }
  hp.n_ff = keys.integer("expert_feed_forward_length", kMaxWidth, width);
  hp.gating = row.gating;
  const int64_t gating = file.get_int(keys.name("expert_gating_func")).value_or(0);
  if (gating != 0 && gating != gating_id(row.gating)) {
    keys.fail("expert_gating_func", fmt::format("is {}, which is not how {} models choose", gating, row.name),
              fmt::format("use a model with {}", gating_id(row.gating)));
  }
  if (file.get_int(keys.name("expert_group_count")).value_or(0) > 1) {
    keys.fail("expert_group_count", "says that experts are chosen by groups, which is not supported",
              "use a model without groups of experts");
  }
  // 0 means "not set".
  const float scale = keys.real("expert_weights_scale", 0, 1e6, 0);
  hp.expert_scale = scale == 0 ? 1 : scale;
}

}  // namespace

std::span<const Architecture> architectures() {
  return kArchitectures;
}

const Architecture* find_architecture(std::string_view name) {
  const auto* found = std::ranges::find(kArchitectures, name, &Architecture::name);
  return found == kArchitectures.end() ? nullptr : found;
}

std::string architecture_names() {
  std::string names;
  for (const Architecture& row : kArchitectures) {
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return names;
}

base::Result<HParams> read_hparams(const gguf::File& file, const Architecture& row,
                                   const std::string& where) {
  Keys keys(file, row.name, where);
  HParams hp;
  hp.architecture = row.name;
  hp.rope = row.rope;
  hp.n_ctx_train = keys.integer("context_length", kMaxContext);
  hp.n_embd = keys.integer("embedding_length", kMaxWidth);
  hp.n_layer = keys.integer("block_count", kMaxLayers);
  read_experts(file, row, keys, hp);
  hp.n_head = keys.integer("attention.head_count", kMaxHeads);
  hp.n_head_kv = keys.integer("attention.head_count_kv", kMaxHeads, hp.n_head);
  hp.rms_eps = keys.real("attention.layer_norm_rms_epsilon", 1e-30, 1);
  hp.head_dim = keys.integer("attention.key_length", kernels::kMaxHeadDim, hp.n_embd / hp.n_head);
  const int value_length = keys.integer("attention.value_length", kernels::kMaxHeadDim, hp.head_dim);
  read_rope(file, keys, hp);
  if (value_length != hp.head_dim) {
    keys.fail("attention.value_length", fmt::format("is {}, unlike key_length {}", value_length, hp.head_dim),
              "use a model with equal lengths");
  }
  if (hp.n_head % hp.n_head_kv != 0) {
    keys.fail("attention.head_count",
              fmt::format("is {}, not a multiple of head_count_kv {}", hp.n_head, hp.n_head_kv),
              "convert the model again");
  }
  if (hp.head_dim % 8 != 0) {
    keys.fail("attention.key_length", fmt::format("is {}, not a multiple of 8", hp.head_dim),
              "use a model whose head size is a multiple of 8");
  }
  if (hp.n_rot % 2 != 0 || (row.whole_head_rope && hp.n_rot != hp.head_dim)) {
    keys.fail(
        "rope.dimension_count",
        fmt::format("is {}, but {} needs {}", hp.n_rot, row.name,
                    row.whole_head_rope ? fmt::format("the head size, {}", hp.head_dim) : "an even number"),
        "convert the model again");
  }
  if (const gguf::Array* tokens = file.get_array("tokenizer.ggml.tokens"); tokens != nullptr) {
    hp.n_vocab = static_cast<int>(std::min<size_t>(tokens->size(), kMaxVocab));
  } else if (file.metadata.contains(keys.name("vocab_size"))) {
    hp.n_vocab = keys.integer("vocab_size", kMaxVocab);
  }
  if (keys.failure()) {
    return *keys.failure();
  }
  return hp;
}

}  // namespace engine
