// Which models people serve, and how a command line asks for one of random weights.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "src/base/suggest.h"
#include "src/engine/synthetic_model.h"

namespace engine {
namespace {

struct Field {
  std::string_view name;
  int SyntheticSpec::*value;
  int lo, hi;
};
constexpr std::array kFields = {
    Field{"n_layer", &SyntheticSpec::n_layer, 1, 1024},
    Field{"n_embd", &SyntheticSpec::n_embd, 32, 1 << 16},
    Field{"n_ff", &SyntheticSpec::n_ff, 32, 1 << 18},
    Field{"n_head", &SyntheticSpec::n_head, 1, 1024},
    Field{"n_head_kv", &SyntheticSpec::n_head_kv, 1, 1024},
    Field{"head_dim", &SyntheticSpec::head_dim, 8, 512},
    Field{"n_rot", &SyntheticSpec::n_rot, 2, 512},
    Field{"n_vocab", &SyntheticSpec::n_vocab, 32, 1 << 20},
    Field{"n_ctx", &SyntheticSpec::n_ctx, 4, 1 << 24},
    Field{"n_expert", &SyntheticSpec::n_expert, 1, 1024},
    Field{"n_expert_used", &SyntheticSpec::n_expert_used, 1, 32},
};

constexpr std::string_view kWhere = "--synthetic";

std::string names_of_shapes() {
  std::string names;
  for (const SyntheticShape& shape : synthetic_shapes()) {
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  }
  return names;
}

std::optional<base::Error> set_type(SyntheticSpec& spec, std::string_view of, std::string_view type) {
  const std::vector<std::string> known = synthetic_types();
  if (std::ranges::find(known, type) == known.end()) {
    return base::error(std::string(kWhere), fmt::format("random weights of type '{}' cannot be made", type),
                       base::did_you_mean(type, known));
  }
  if (of.empty()) {
    spec.type = type;
    spec.types.clear();  // all of them
    return std::nullopt;
  }
  spec.types[std::string(of)] = type;
  const auto tensors = tensors_of(spec);
  const bool has = std::ranges::any_of(tensors, [&](const SyntheticTensor& tensor) {
    return tensor.name == std::string(of) + ".weight" || tensor.name.ends_with(fmt::format(".{}.weight", of));
  });
  return has ? std::optional<base::Error>()
             : base::error(std::string(kWhere), fmt::format("the model has no tensors '{}'", of),
                           "name them as GGUF does: type.ffn_down=q6_k");
}

std::optional<base::Error> set_field(SyntheticSpec& spec, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  const std::string_view name = assignment.substr(0, equals);
  const std::string_view value =
      equals == std::string_view::npos ? std::string_view() : assignment.substr(equals + 1);
  if (name == "type" || name.starts_with("type.")) {
    return set_type(spec, name.substr(std::min<size_t>(5, name.size())), value);
  }
  const auto* field = std::ranges::find(kFields, name, &Field::name);
  if (field == kFields.end()) {
    std::vector<std::string> known{"type"};
    for (const Field& one : kFields) {
      known.emplace_back(one.name);
    }
    return base::error(std::string(kWhere), fmt::format("a shape has no field '{}'", name),
                       base::did_you_mean(name, known));
  }
  int number = 0;
  const char* end = value.data() + value.size();
  const auto [stop, failure] = std::from_chars(value.data(), end, number);
  if (failure != std::errc() || stop != end || number < field->lo || number > field->hi) {
    return base::error(std::string(kWhere), fmt::format("{}: '{}' is no number", name, value),
                       fmt::format("give one of {} to {}", field->lo, field->hi));
  }
  spec.*field->value = number;
  return std::nullopt;
}

// What the loader would refuse only after the file has been made.
std::optional<base::Error> impossible(const SyntheticSpec& spec) {
  const auto fail = [](std::string what, std::string next) {
    return base::error(std::string(kWhere), std::move(what), std::move(next));
  };
  if (spec.n_head % spec.n_head_kv != 0) {
    return fail(fmt::format("{} heads cannot share {} KV heads", spec.n_head, spec.n_head_kv),
                "give an n_head that n_head_kv divides");
  }
  if (spec.n_rot > spec.head_dim || spec.n_rot % 2 != 0) {
    return fail(fmt::format("{} of {} dimensions cannot be rotated", spec.n_rot, spec.head_dim),
                "give an even n_rot of at most head_dim");
  }
  if (spec.n_expert_used > spec.n_expert) {
    return fail(fmt::format("{} of {} experts cannot be used", spec.n_expert_used, spec.n_expert),
                "give more experts");
  }
  for (const SyntheticTensor& tensor : tensors_of(spec)) {
    if (tensor.dims[0] % static_cast<uint64_t>(tensor.format->block_values) != 0) {
      return fail(fmt::format("{}: rows of {} values are no whole blocks of {}", tensor.name, tensor.dims[0],
                              tensor.format->name),
                  fmt::format("give widths that {} divides", tensor.format->block_values));
    }
  }
  return std::nullopt;
}

SyntheticSpec minimax() {
  SyntheticSpec spec;
  spec.architecture = "minimax-m2";
  spec.n_layer = 62;
  spec.n_embd = 3072;
  spec.n_ff = 1536;
  spec.n_head = 48;
  spec.n_head_kv = 8;
  spec.head_dim = 128;
  spec.n_rot = 64;
  spec.n_vocab = 200064;
  spec.n_ctx = 196608;
  spec.n_expert = 256;
  spec.n_expert_used = 8;
  spec.type = "q3_k";
  spec.types = {{"token_embd", "q4_k"}, {"output", "q6_k"}, {"attn_v", "q5_k"}};
  return spec;
}

SyntheticSpec llama(int n_layer, int n_embd, int n_ff, int n_head) {
  SyntheticSpec spec;
  spec.n_layer = n_layer;
  spec.n_embd = n_embd;
  spec.n_ff = n_ff;
  spec.n_head = n_head;
  spec.n_head_kv = 8;
  spec.head_dim = spec.n_rot = 128;
  spec.n_vocab = 128256;
  spec.n_ctx = 131072;
  spec.type = "q4_k";
  spec.types = {{"output", "q6_k"}, {"attn_v", "q6_k"}};
  return spec;
}

}  // namespace

std::span<const SyntheticShape> synthetic_shapes() {
  static const std::array kShapes = {
      SyntheticShape{"8b", "Llama 3.1 8B at Q4_K", llama(32, 4096, 14336, 32)},
      SyntheticShape{"70b", "Llama 3.1 70B at Q4_K", llama(80, 8192, 28672, 64)},
      SyntheticShape{"minimax-m2.5", "MiniMax M2.5 (229B, 256 experts of which 8 are used) at Q3_K",
                     minimax()},
  };
  return kShapes;
}

base::Result<SyntheticSpec> parse_synthetic(std::string_view config) {
  const std::string_view name = config.substr(0, config.find(','));
  const auto shapes = synthetic_shapes();
  const auto shape = std::ranges::find(shapes, name, &SyntheticShape::name);
  if (shape == shapes.end()) {
    return base::error(std::string(kWhere), fmt::format("no shape is called '{}'", name),
                       fmt::format("use one of {}", names_of_shapes()));
  }
  SyntheticSpec spec = shape->spec;
  spec.one_layer = true;
  for (size_t at = name.size(); at < config.size();) {
    const size_t end = std::min(config.find(',', at + 1), config.size());
    if (auto failure = set_field(spec, config.substr(at + 1, end - at - 1))) {
      return *std::move(failure);
    }
    at = end;
  }
  if (auto failure = impossible(spec)) {
    return *std::move(failure);
  }
  return spec;
}

}  // namespace engine
