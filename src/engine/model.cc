#include "src/engine/model.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <utility>

#include "kernels/formats/formats.h"
#include "src/base/fnv.h"
#include "src/base/log.h"
#include "src/engine/architectures.h"
#include "src/gguf/model_files.h"

namespace engine {
namespace {

std::string shape_text(const std::vector<uint64_t>& dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

std::string weight_format_names() {
  std::string names;
  for (const kernels::WeightFormat& format : kernels::weight_formats()) {
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  return names;
}

// Takes tensors out of the file by name and exact shape; the first failure sticks.
class Weights {
 public:
  Weights(Model& model, const gguf::ModelFiles& files)
      : model_(model), files_(files), used_(model.file.tensors.size(), false) {}

  const std::optional<base::Error>& failure() const { return failure_; }
  bool has(const std::string& name) const { return model_.file.find(name) != nullptr; }

  kernels::Matrix matrix(const std::string& name, int64_t cols, int64_t rows) {
    return view(take(name, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)}), cols, rows);
  }

  // n matrices of [rows, cols], one after the other.
  Experts experts(const std::string& name, int64_t cols, int64_t rows, int64_t n) {
    const gguf::Tensor* tensor =
        take(name, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows), static_cast<uint64_t>(n)});
    const kernels::Matrix first = view(tensor, cols, rows);
    model_.expert_bytes += first.format == nullptr ? 0 : tensor->bytes;
    return {first, first.row_bytes * static_cast<size_t>(rows)};
  }

  // Float32 in place where it lies aligned, a converted copy otherwise.
  const float* vector(const std::string& name, int64_t n) {
    const gguf::Tensor* tensor = take(name, {static_cast<uint64_t>(n)});
    const kernels::WeightFormat* format = format_of(tensor);
    if (format == nullptr) {
      return nullptr;
    }
    const std::byte* data = files_.data(*tensor);
    if (format->name == "f32" && reinterpret_cast<uintptr_t>(data) % alignof(float) == 0) {
      return reinterpret_cast<const float*>(data);
    }
    std::vector<float> values(static_cast<size_t>(n));
    format->dequantize(data, n, values.data());
    model_.converted.push_back(std::move(values));
    return model_.converted.back().data();
  }

  // A tensor nobody took would change the result in a way this forward pass does not know.
  void refuse_unused() {
    for (size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) {
        fail(fmt::format("tensor '{}' is not one that {} models have here", model_.file.tensors[i].name,
                         model_.hp.architecture),
             "use a model without it");
        return;
      }
    }
  }

 private:
  void fail(std::string what, std::string next) {
    if (!failure_) {
      failure_ = base::error(model_.path, std::move(what), std::move(next));
    }
  }

  // The first rows of a tensor; an empty matrix where its type is not supported.
  kernels::Matrix view(const gguf::Tensor* tensor, int64_t cols, int64_t rows) {
    const kernels::WeightFormat* format = format_of(tensor);
    if (format == nullptr) {
      return {};
    }
    const auto row_bytes = static_cast<size_t>(cols / format->block_values * format->block_bytes);
    return {format, files_.data(*tensor), rows, cols, row_bytes};
  }

  const gguf::Tensor* take(const std::string& name, const std::vector<uint64_t>& dims) {
    const auto found = model_.file.tensor_index.find(name);
    if (found == model_.file.tensor_index.end()) {
      fail(fmt::format("tensor '{}' is missing", name), "download or convert the model again");
      return nullptr;
    }
    used_[found->second] = true;
    const gguf::Tensor& tensor = model_.file.tensors[found->second];
    if (tensor.dims != dims) {
      fail(fmt::format("tensor '{}' has shape {}, the metadata ask for {}", name, shape_text(tensor.dims),
                       shape_text(dims)),
           "convert the model again");
      return nullptr;
    }
    return &tensor;
  }

  const kernels::WeightFormat* format_of(const gguf::Tensor* tensor) {
    if (tensor == nullptr) {
      return nullptr;
    }
    const kernels::WeightFormat* format = kernels::find_weight_format(tensor->type);
    if (format == nullptr) {
      const auto size = gguf::type_size(tensor->type);
      fail(fmt::format("tensor '{}' has type {}, which is not supported", tensor->name,
                       size ? size->name : std::string_view("unknown")),
           fmt::format("use a model in one of: {}", weight_format_names()));
      return nullptr;
    }
    const auto size = gguf::type_size(tensor->type);
    AR_CHECK(size && size->block_values == format->block_values && size->block_bytes == format->block_bytes,
             "gguf and kernels disagree on the size of a type");
    return format;
  }

  Model& model_;
  const gguf::ModelFiles& files_;
  std::vector<bool> used_;
  std::optional<base::Error> failure_;
};

// The projections of queries, keys and values: three tensors, or their rows in that order in one.
void take_qkv(Weights& weights, const Architecture& row, const HParams& hp, int i, LayerWeights& layer) {
  const auto name = [i](std::string_view part) { return fmt::format("blk.{}.{}", i, part); };
  const int64_t q_width = int64_t{hp.n_head} * hp.head_dim, kv_width = int64_t{hp.n_head_kv} * hp.head_dim;
  const int64_t all = q_width + 2 * kv_width;
  if (!weights.has(name("attn_qkv.weight"))) {
    layer.q = weights.matrix(name("attn_q.weight"), hp.n_embd, q_width);
    layer.k = weights.matrix(name("attn_k.weight"), hp.n_embd, kv_width);
    layer.v = weights.matrix(name("attn_v.weight"), hp.n_embd, kv_width);
  } else if (const kernels::Matrix fused = weights.matrix(name("attn_qkv.weight"), hp.n_embd, all);
             fused.format != nullptr) {
    const auto rows = [&fused](int64_t first, int64_t n) {
      kernels::Matrix part = fused;
      part.data += static_cast<size_t>(first) * part.row_bytes;
      part.rows = n;
      return part;
    };
    layer.q = rows(0, q_width);
    layer.k = rows(q_width, kv_width);
    layer.v = rows(q_width + kv_width, kv_width);
  }
  if (row.qkv_bias && !weights.has(name("attn_qkv.bias"))) {
    layer.q_bias = weights.vector(name("attn_q.bias"), q_width);
    layer.k_bias = weights.vector(name("attn_k.bias"), kv_width);
    layer.v_bias = weights.vector(name("attn_v.bias"), kv_width);
  } else if (row.qkv_bias) {
    if (const float* fused = weights.vector(name("attn_qkv.bias"), all)) {
      layer.q_bias = fused;
      layer.k_bias = fused + q_width;
      layer.v_bias = fused + q_width + kv_width;
    }
  }
}

void take_weights(Model& model, const Architecture& row, Weights& weights) {
  HParams& hp = model.hp;
  if (const gguf::Tensor* embd = model.file.find("token_embd.weight"); hp.n_vocab == 0 && embd != nullptr) {
    const bool sane = embd->dims.size() == 2 && embd->dims[1] > 0 && embd->dims[1] < (uint64_t{1} << 28);
    hp.n_vocab =
        sane ? static_cast<int>(embd->dims[1]) : 1;  // 1: the shape check below then says what is wrong
  }
  const int64_t q_width = int64_t{hp.n_head} * hp.head_dim, kv_width = int64_t{hp.n_head_kv} * hp.head_dim;
  model.token_embd = weights.matrix("token_embd.weight", hp.n_embd, hp.n_vocab);
  model.output_norm = weights.vector("output_norm.weight", hp.n_embd);
  if (row.tied_output && !weights.has("output.weight")) {
    model.output = model.token_embd;
  } else {
    model.output = weights.matrix("output.weight", hp.n_embd, hp.n_vocab);
  }
  if (weights.has("rope_freqs.weight")) {
    model.rope_factors = weights.vector("rope_freqs.weight", hp.n_rot / 2);
  }
  for (int i = 0; i < hp.n_layer && !weights.failure(); ++i) {
    const auto name = [i](std::string_view part) { return fmt::format("blk.{}.{}.weight", i, part); };
    LayerWeights layer;
    layer.attn_norm = weights.vector(name("attn_norm"), hp.n_embd);
    take_qkv(weights, row, hp, i, layer);
    layer.o = weights.matrix(name("attn_output"), q_width, hp.n_embd);
    if (row.qk_norm != QkNorm::kNone) {
      const bool all = row.qk_norm == QkNorm::kAll;
      layer.q_norm = weights.vector(name("attn_q_norm"), all ? q_width : hp.head_dim);
      layer.k_norm = weights.vector(name("attn_k_norm"), all ? kv_width : hp.head_dim);
    }
    layer.ffn_norm = weights.vector(name("ffn_norm"), hp.n_embd);
    if (hp.n_expert > 0) {
      layer.router = weights.matrix(name("ffn_gate_inp"), hp.n_embd, hp.n_expert);
      if (row.selection_bias) {
        layer.router_bias = weights.vector(fmt::format("blk.{}.exp_probs_b.bias", i), hp.n_expert);
      }
      layer.gate_exps = weights.experts(name("ffn_gate_exps"), hp.n_embd, hp.n_ff, hp.n_expert);
      layer.up_exps = weights.experts(name("ffn_up_exps"), hp.n_embd, hp.n_ff, hp.n_expert);
      layer.down_exps = weights.experts(name("ffn_down_exps"), hp.n_ff, hp.n_embd, hp.n_expert);
    } else {
      layer.gate = weights.matrix(name("ffn_gate"), hp.n_embd, hp.n_ff);
      layer.up = weights.matrix(name("ffn_up"), hp.n_embd, hp.n_ff);
      layer.down = weights.matrix(name("ffn_down"), hp.n_ff, hp.n_embd);
    }
    model.layers.push_back(layer);
  }
}

base::Result<void> check_rope_factors(const Model& model) {
  for (int i = 0; model.rope_factors != nullptr && i < model.hp.n_rot / 2; ++i) {
    if (!(model.rope_factors[i] > 0) || model.rope_factors[i] > 1e6F) {
      return base::error(
          model.path,
          fmt::format("tensor 'rope_freqs.weight': element {} is {}, no divisor of a frequency", i,
                      model.rope_factors[i]),
          "download or convert the model again");
    }
  }
  return {};
}

// A few bytes of each tensor, so that a 100 GB file is not read for it.
uint64_t fingerprint_of(const gguf::ModelFiles& files, const gguf::File& file) {
  uint64_t hash = base::kFnvOffset;
  const auto mix = [&hash](std::span<const std::byte> piece) { hash = base::fnv1a(piece, hash); };
  constexpr uint64_t kSample = 64;
  for (size_t part = 0; part < files.parts.size(); ++part) {
    const std::span<const std::byte> bytes = files.parts[part].bytes();
    uint64_t header = bytes.size();
    for (const gguf::Tensor& tensor : file.tensors) {
      header = tensor.part == part ? std::min(header, tensor.offset) : header;
    }
    mix(bytes.first(header));
    for (const gguf::Tensor& tensor : file.tensors) {
      if (tensor.part == part) {
        mix(bytes.subspan(tensor.offset + tensor.bytes / 2,
                          std::min(kSample, tensor.bytes - tensor.bytes / 2)));
      }
    }
    const uint64_t size = bytes.size();
    mix(std::as_bytes(std::span(&size, 1)));
  }
  return hash;
}

void keep_resident(std::span<const std::byte> bytes, const LoadOptions& options, const std::string& path) {
  void* data = const_cast<std::byte*>(bytes.data());
  if (options.mmap) {
    ::madvise(data, bytes.size(),
              MADV_WILLNEED);  // read ahead, so that the first request does not pay for it
  }
  if (options.mlock && ::mlock(data, bytes.size()) != 0) {
    base::log_warn("{}: cannot lock {} bytes of weights in memory: {}; raise `ulimit -l` or drop --mlock",
                   path, bytes.size(), std::strerror(errno));
  }
}

}  // namespace

uint64_t bytes_per_step(const Model& model, int64_t experts) {
  const kernels::Matrix& table = model.token_embd;
  const bool tied = model.output.data == table.data;
  uint64_t bytes = model.weight_bytes - model.expert_bytes;
  bytes -= tied ? 0 : static_cast<uint64_t>(table.rows) * table.row_bytes;
  for (const LayerWeights& layer : model.layers) {  // layers may be stored in types of their own
    const size_t expert = layer.gate_exps.bytes + layer.up_exps.bytes + layer.down_exps.bytes;
    bytes += expert * static_cast<uint64_t>(experts) / model.layers.size();
  }
  return bytes;
}

uint64_t bytes_per_token(const Model& model) {
  return bytes_per_step(model, int64_t{model.hp.n_layer} * model.hp.n_expert_used);
}

base::Result<std::shared_ptr<const Model>> load_model(const std::string& path, const LoadOptions& options) {
  auto opened = gguf::open_model(path, options.mmap ? gguf::Access::kMap : gguf::Access::kRead);
  if (!opened) {
    return opened.failure();
  }
  const auto files = std::make_shared<gguf::ModelFiles>(*std::move(opened));
  auto model = std::make_shared<Model>();
  model->path = path;
  model->file = std::move(files->file);
  model->storage = files;
  model->mapped = options.mmap;
  const std::string name = model->file.get_string("general.architecture").value_or("");
  const Architecture* row = find_architecture(name);
  if (row == nullptr) {
    return base::error(path, fmt::format("architecture '{}' is not supported", name),
                       fmt::format("use a model of one of: {}", architecture_names()));
  }
  auto hp = read_hparams(model->file, *row, path);
  if (!hp) {
    return hp.failure();
  }
  model->hp = *std::move(hp);
  model->hp.qk_norm_all = row->qk_norm == QkNorm::kAll;
  Weights weights(*model, *files);
  take_weights(*model, *row, weights);
  weights.refuse_unused();
  if (weights.failure()) {
    return *weights.failure();
  }
  if (auto sane = check_rope_factors(*model); !sane) {
    return sane.failure();
  }
  for (const gguf::Tensor& tensor : model->file.tensors) {
    uint64_t values = 1;
    for (const uint64_t dim : tensor.dims) {
      values *= dim;
    }
    model->n_params += values;
    model->weight_bytes += tensor.bytes;
  }
  model->fingerprint = fingerprint_of(*files, model->file);
  for (size_t part = 0; part < files->parts.size(); ++part) {
    keep_resident(files->parts[part].bytes(), options, files->paths[part]);
  }
  return std::shared_ptr<const Model>(std::move(model));
}

}  // namespace engine
