#include "src/engine/synthetic_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>

#include "kernels/formats/half.h"
#include "src/base/check.h"
#include "src/engine/architectures.h"
#include "src/gguf/builder.h"

namespace engine {
namespace {

const kernels::WeightFormat* format_named(std::string_view name) {
  for (const kernels::WeightFormat& format : kernels::weight_formats()) {
    if (format.name == name) {
      return &format;
    }
  }
  AR_CHECK(false, "no such weight format");
}

// Where a block has its fp16 factors, and how large that of the minimums is beside that of the scales for values
// of about zero mean.
struct Factors {
  std::string_view format;
  int scale_at, min_at;
  float min_ratio;
};
constexpr std::array kFactors = {
    Factors{"q8_0", 0, -1, 0},   Factors{"q4_0", 0, -1, 0},     Factors{"q4_1", 0, 2, -7.5F},
    Factors{"q5_0", 0, -1, 0},   Factors{"q5_1", 0, 2, -15.5F}, Factors{"q2_k", 80, 82, 1.5F},
    Factors{"q3_k", 108, -1, 0}, Factors{"q4_k", 0, 2, 7.5F},   Factors{"q5_k", 0, 2, 15.5F},
    Factors{"q6_k", 208, -1, 0}, Factors{"iq4_nl", 0, -1, 0},   Factors{"iq4_xs", 0, -1, 0}};

// Random blocks whose values have about the given root mean square.
void fill_blocks(const kernels::WeightFormat& format, float rms, std::mt19937_64& random,
                 std::string& bytes) {
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
  }
  const auto* factors = std::ranges::find(kFactors, format.name, &Factors::format);
  AR_CHECK(factors != kFactors.end(), "a format whose factors are not known here");
  const auto set = [&](size_t block, float scale) {
    const uint16_t d = kernels::f16_from_f32(scale), m = kernels::f16_from_f32(scale * factors->min_ratio);
    std::memcpy(bytes.data() + block + factors->scale_at, &d, 2);
    if (factors->min_at >= 0) {
      std::memcpy(bytes.data() + block + factors->min_at, &m, 2);
    }
  };
  const auto block_bytes = static_cast<size_t>(format.block_bytes);
  const size_t n = std::min<size_t>(16, bytes.size() / block_bytes);
  std::vector<float> values(n * static_cast<size_t>(format.block_values));
  for (size_t i = 0; i < n; ++i) {
    set(i * block_bytes, 1);
  }
  format.dequantize(reinterpret_cast<const std::byte*>(bytes.data()), static_cast<int64_t>(values.size()),
                    values.data());
  double squares = 0;
  for (const float value : values) {
    squares += double{value} * value;
  }
  const double of_one = std::sqrt(squares / static_cast<double>(values.size()));
  for (size_t block = 0; block < bytes.size(); block += block_bytes) {
    set(block, static_cast<float>(rms / of_one));
  }
}

uint64_t padded(uint64_t bytes) {
  return (bytes + 31) / 32 * 32;
}

// The tensor of the first layer whose bytes this one has, or its own name.
std::string shared_name(const SyntheticSpec& spec, const std::string& name) {
  if (!spec.one_layer || !name.starts_with("blk.")) {
    return name;
  }
  return "blk.0" + name.substr(name.find('.', 4));
}

// Offsets from the start of the data; a tensor of a later layer may lie where the first's does.
std::vector<uint64_t> offsets_of(const SyntheticSpec& spec, const std::vector<SyntheticTensor>& tensors,
                                 uint64_t* end) {
  std::vector<uint64_t> offsets;
  std::map<std::string, uint64_t> of_first;
  *end = 0;
  for (const SyntheticTensor& tensor : tensors) {
    if (const auto first = of_first.find(shared_name(spec, tensor.name)); first != of_first.end()) {
      offsets.push_back(first->second);
      continue;
    }
    of_first[tensor.name] = *end;
    offsets.push_back(*end);
    *end += padded(tensor.rows() * tensor.row_bytes());
  }
  return offsets;
}

gguf::Builder header_of(const SyntheticSpec& spec) {
  const auto u = [](int n) { return static_cast<uint32_t>(n); };
  const std::string prefix = spec.architecture + ".";
  gguf::Builder header;
  header.text("general.architecture", spec.architecture)
      .text("tokenizer.ggml.model", "none")
      .u32(prefix + "context_length", u(spec.n_ctx))
      .u32(prefix + "embedding_length", u(spec.n_embd))
      .u32(prefix + "block_count", u(spec.n_layer))
      .u32(prefix + "feed_forward_length", u(spec.n_ff))
      .u32(prefix + "attention.head_count", u(spec.n_head))
      .u32(prefix + "attention.head_count_kv", u(spec.n_head_kv))
      .u32(prefix + "attention.key_length", u(spec.head_dim))
      .u32(prefix + "attention.value_length", u(spec.head_dim))
      .u32(prefix + "rope.dimension_count", u(spec.n_rot))
      .u32(prefix + "vocab_size", u(spec.n_vocab))
      .f32(prefix + "attention.layer_norm_rms_epsilon", 1e-6F);
  if (spec.n_expert > 0) {
    header.u32(prefix + "expert_count", u(spec.n_expert))
        .u32(prefix + "expert_used_count", u(spec.n_expert_used))
        .u32(prefix + "expert_feed_forward_length", u(spec.n_ff));
    if (spec.expert_scale != 0) {
      header.f32(prefix + "expert_weights_scale", spec.expert_scale);
    }
  }
  return header;
}

}  // namespace

uint64_t SyntheticTensor::rows() const {
  uint64_t n = 1;
  for (size_t i = 1; i < dims.size(); ++i) {
    n *= dims[i];
  }
  return n;
}

uint64_t SyntheticTensor::row_bytes() const {
  return dims[0] / static_cast<uint64_t>(format->block_values) * static_cast<uint64_t>(format->block_bytes);
}

std::vector<SyntheticTensor> tensors_of(const SyntheticSpec& spec) {
  const Architecture* row = find_architecture(spec.architecture);
  AR_CHECK(row != nullptr, "no such architecture");
  const auto u = [](int n) { return static_cast<uint64_t>(n); };
  const uint64_t embd = u(spec.n_embd), ff = u(spec.n_ff), q = u(spec.n_head * spec.head_dim),
                 kv = u(spec.n_head_kv * spec.head_dim);
  std::vector<SyntheticTensor> all;
  const auto matrix = [&](const std::string& name, std::vector<uint64_t> dims) {
    std::string type = spec.type;
    for (const auto& [end, other] : spec.types) {
      type = name == end || name.ends_with("." + end) ? other : type;
    }
    all.push_back({name + ".weight", std::move(dims), format_named(type)});
  };
  const auto vector = [&](const std::string& name, uint64_t n) {
    all.push_back({name, {n}, format_named("f32")});
  };
  matrix("token_embd", {embd, u(spec.n_vocab)});
  vector("output_norm.weight", embd);
  matrix("output", {embd, u(spec.n_vocab)});
  for (int i = 0; i < spec.n_layer; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    vector(block + "attn_norm.weight", embd);
    if (spec.fused_qkv) {
      matrix(block + "attn_qkv", {embd, q + 2 * kv});
    } else {
      matrix(block + "attn_q", {embd, q});
      matrix(block + "attn_k", {embd, kv});
      matrix(block + "attn_v", {embd, kv});
    }
    matrix(block + "attn_output", {q, embd});
    if (row->qkv_bias && spec.fused_qkv) {
      vector(block + "attn_qkv.bias", q + 2 * kv);
    } else if (row->qkv_bias) {
      vector(block + "attn_q.bias", q);
      vector(block + "attn_k.bias", kv);
      vector(block + "attn_v.bias", kv);
    }
    if (row->qk_norm != QkNorm::kNone) {
      const bool every = row->qk_norm == QkNorm::kAll;
      vector(block + "attn_q_norm.weight", every ? q : u(spec.head_dim));
      vector(block + "attn_k_norm.weight", every ? kv : u(spec.head_dim));
    }
    vector(block + "ffn_norm.weight", embd);
    if (!row->experts && spec.n_expert == 0) {
      matrix(block + "ffn_gate", {embd, ff});
      matrix(block + "ffn_up", {embd, ff});
      matrix(block + "ffn_down", {ff, embd});
      continue;
    }
    all.push_back({block + "ffn_gate_inp.weight", {embd, u(spec.n_expert)}, format_named("f32")});
    if (row->selection_bias) {
      vector(block + "exp_probs_b.bias", u(spec.n_expert));
    }
    matrix(block + "ffn_gate_exps", {embd, ff, u(spec.n_expert)});
    matrix(block + "ffn_up_exps", {embd, ff, u(spec.n_expert)});
    matrix(block + "ffn_down_exps", {ff, embd, u(spec.n_expert)});
  }
  return all;
}

std::string bytes_of(const SyntheticSpec& spec, const SyntheticTensor& tensor) {
  std::mt19937_64 random(std::hash<std::string>()(tensor.name) + spec.seed);
  std::string bytes(tensor.rows() * tensor.row_bytes(), '\0');
  const bool norm = tensor.name.ends_with("norm.weight"), bias = tensor.name.ends_with(".bias"),
             router = tensor.name.ends_with("ffn_gate_inp.weight"),
             table = tensor.name.starts_with("token_embd");
  // Rows of unit length on average, so that widths do not matter; routers spread wider.
  const float rms =
      norm || bias ? 0.1F
                   : (table ? 1.0F : (router ? 3.0F : 1.0F) / std::sqrt(static_cast<float>(tensor.dims[0])));
  if (bytes.empty()) {
    return bytes;  // a shape that cannot be, for tests of refusals
  }
  if (tensor.format->block_values > 1) {
    fill_blocks(*tensor.format, rms, random, bytes);
  } else {
    std::normal_distribution<float> normal(norm ? 1.0F : 0.0F, rms);
    std::vector<float> values(tensor.rows() * tensor.dims[0]);
    for (float& value : values) {
      value = normal(random);
    }
    if (tensor.format->quantize != nullptr) {
      tensor.format->quantize(values.data(), static_cast<int64_t>(values.size()),
                              reinterpret_cast<std::byte*>(bytes.data()));
    } else {
      AR_CHECK(tensor.format->name == "f32", "a format that nothing here writes");
      std::memcpy(bytes.data(), values.data(), bytes.size());
    }
  }
  if (spec.change) {
    spec.change(tensor, bytes);
  }
  return bytes;
}

std::vector<std::string> synthetic_types() {
  std::vector<std::string> names;
  for (const kernels::WeightFormat& format : kernels::weight_formats()) {
    const bool known = std::ranges::find(kFactors, format.name, &Factors::format) != kFactors.end();
    if (known || (format.block_values == 1 && (format.quantize != nullptr || format.name == "f32"))) {
      names.emplace_back(format.name);
    }
  }
  return names;
}

SyntheticSize size_of(const SyntheticSpec& spec) {
  SyntheticSize size;
  const std::vector<SyntheticTensor> tensors = tensors_of(spec);
  offsets_of(spec, tensors, &size.file);
  for (const SyntheticTensor& tensor : tensors) {
    const uint64_t bytes = tensor.rows() * tensor.row_bytes();
    size.largest = std::max(size.largest, bytes);
    size.weights += bytes;
  }
  return size;
}

base::Result<void> write_model(const SyntheticSpec& spec, const std::string& path) {
  gguf::Builder header = header_of(spec);
  const std::vector<SyntheticTensor> tensors = tensors_of(spec);
  uint64_t end = 0;
  const std::vector<uint64_t> offsets = offsets_of(spec, tensors, &end);
  for (size_t i = 0; i < tensors.size(); ++i) {
    header.tensor_at(tensors[i].name, tensors[i].dims, tensors[i].format->ggml_type, offsets[i]);
  }
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << header.build();
  uint64_t written = 0;
  for (size_t i = 0; i < tensors.size() && file; ++i) {
    if (offsets[i] < written) {
      continue;  // the first layer's
    }
    std::string bytes = bytes_of(spec, tensors[i]);
    bytes.resize(padded(bytes.size()));
    file << bytes;
    written += bytes.size();
  }
  file.close();
  return file.good() ? base::Result<void>()
                     : base::sys_error(path, "cannot be written", errno, "free some space");
}

}  // namespace engine
