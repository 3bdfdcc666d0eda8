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
    Architecture{.name = "llama", .rope = RopeKind::kNorm, .tied_output = true, .whole_head_rope = true},
};

// Upper bounds that keep every product of sizes within 64 bits and every size within an int.
constexpr int64_t kMaxWidth = 1 << 24, kMaxLayers = 1 << 12, kMaxHeads = 1 << 16, kMaxContext = 1 << 30,
                  kMaxVocab = 1 << 28;

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
  hp.n_ff = keys.integer("feed_forward_length", kMaxWidth);
  hp.n_head = keys.integer("attention.head_count", kMaxHeads);
  hp.n_head_kv = keys.integer("attention.head_count_kv", kMaxHeads, hp.n_head);
  hp.rms_eps = keys.real("attention.layer_norm_rms_epsilon", 1e-30, 1);
  hp.head_dim = keys.integer("attention.key_length", kernels::kMaxHeadDim, hp.n_embd / hp.n_head);
  const int value_length = keys.integer("attention.value_length", kernels::kMaxHeadDim, hp.head_dim);
  read_rope(file, keys, hp);
  if (file.get_int(keys.name("expert_count")).value_or(0) != 0) {
    keys.fail("expert_count", "says that this is a mixture of experts, which is not supported yet",
              "use a dense model");
  }
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
