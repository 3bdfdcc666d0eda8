#include "src/study/memory_estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "src/base/kv_types.h"
#include "src/base/units.h"

namespace study {
namespace {

constexpr uint64_t kContextStep = 256;  // llama-server and tbq-server pad a context to this
constexpr uint64_t kSpareShare = 16;    // of the weights: tensors that a server may leave out
constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

// Saturating: an absurd context must not wrap around to one that fits.
uint64_t times(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kMost : product;
}
uint64_t plus(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kMost : sum;
}

// Tokens of every sequence that the bundled server keeps in f16 beside a quantized cache: the sink's pages and a ring of
// pages for the tail and rows that may be taken back, no more than there are.
uint64_t copied_tokens(const MemorySettings& settings, uint64_t n_ctx) {
  constexpr uint64_t kPage = 128, kRollback = 128;
  const auto pages = [](uint64_t tokens) { return plus(tokens, kPage - 1) / kPage; };
  const uint64_t n_seqs = std::max<uint64_t>(1, settings.n_seqs);
  const uint64_t of_one = pages(plus(n_ctx / n_seqs, kContextStep - 1) / kContextStep * kContextStep);
  const uint64_t sink = std::min(pages(settings.kv_sink), of_one);
  const uint64_t ring = settings.kv_tail == 0 ? 0 : plus(pages(plus(settings.kv_tail, kRollback - 2)), 1);
  return times(times(sink + std::min(ring, of_one - sink), kPage), std::max(n_seqs, settings.n_slots));
}

uint64_t q_width_of(const ModelShape& shape) {
  return shape.layers.empty() ? shape.n_embd : times(shape.n_head, shape.layers[0].dim_k);
}

// Activations rounded to int8 for products with quantized weights: 320 bytes for 256 of them, of all rows and of each
// thread for itself.
uint64_t rounded_activations(const ModelShape& shape, uint64_t rows, uint64_t n_threads) {
  const auto blocks = [](uint64_t n) { return plus(n, 255) / 256; };
  const uint64_t n_used = std::max<uint64_t>(1, shape.n_expert_used);
  const uint64_t ff = blocks(shape.n_ff / n_used), in = blocks(std::max(shape.n_embd, q_width_of(shape)));
  const uint64_t of_rows = std::max(times(n_used, std::max(ff, blocks(shape.n_embd))), in);
  const uint64_t of_thread = std::max(times(n_used, ff), in);
  return times(plus(times(rows, of_rows), times(n_threads, of_thread)), 320 * shape.n_dot_groups);
}

// As the bundled server lays its workspace out: activations of the rows of one ubatch, what each expert reads and gives
// for each of them, few logits at a time, each thread's own, and parts of a long context that threads share out.
uint64_t bundled_workspace(const ModelShape& shape, const MemorySettings& settings) {
  constexpr uint64_t kLogitRows = 32, kChunkTokens = 512, kBlockQueries = 32;
  const uint64_t n_ctx = settings.n_ctx.value_or(shape.n_ctx_train);
  const uint64_t rows = n_ctx > 0 ? std::min(settings.n_ubatch, n_ctx) : settings.n_ubatch;
  const uint64_t n_threads = std::max<uint64_t>(1, settings.n_threads);
  uint64_t heads = 0, dim_k = 0, dim_v = 0;
  for (const ModelShape::KvLayer& layer : shape.layers) {
    heads = std::max(heads, layer.heads);
    dim_k = std::max(dim_k, layer.dim_k);
    dim_v = std::max(dim_v, layer.dim_v);
  }
  const uint64_t group = std::max<uint64_t>(1, shape.n_head / std::max<uint64_t>(1, heads));
  const uint64_t queries = std::max<uint64_t>(1, kBlockQueries / group) * group;
  // Twice the hidden state: what comes in is kept beside what is worked on.
  uint64_t per_row = plus(times(2, shape.n_embd), times(2, q_width_of(shape)));
  per_row = plus(per_row, plus(times(heads, plus(dim_k, dim_v)), plus(times(2, shape.n_ff), shape.n_rot)));
  per_row = plus(per_row, plus(shape.n_expert, times(shape.n_expert_used, plus(shape.n_embd, 4))));
  const uint64_t partial = times(queries, plus(dim_v, 2));
  const uint64_t per_thread =
      plus(plus(shape.n_embd, times(queries, plus(dim_k, kChunkTokens + 1))),
           plus(times(2, partial), plus(shape.n_expert, times(2, shape.n_expert_used))));
  const uint64_t n_seqs = std::max<uint64_t>(1, settings.n_seqs);
  const uint64_t of_one = n_seqs == 1 ? n_ctx : plus(n_ctx / n_seqs, 255) / 256 * 256;  // whole steps
  const uint64_t chunks = plus(of_one, kChunkTokens - 1) / kChunkTokens;
  const uint64_t split =
      n_threads == 1 ? 0 : times(times(2 * n_threads, chunks), times(group, plus(dim_k, 2)));
  const uint64_t logits = times(std::min(rows, kLogitRows), shape.n_vocab);
  uint64_t floats = plus(plus(times(rows, per_row), times(n_threads, per_thread)), plus(split, logits));
  if (settings.kv_center) {
    for (const ModelShape::KvLayer& layer : shape.layers) {
      floats = plus(floats, times(layer.heads, plus(layer.dim_k, layer.dim_v)));
    }
  }
  // Pages that a step begins, kept apart until their layer's attention is done.
  const uint64_t begun = settings.kv_tail == 0 || shape.layers.empty()
                             ? 0
                             : shape.copied_bytes(plus(rows, times(126, std::min(n_seqs, rows))) / 128 * 128,
                                                  settings.cache_type_k, settings.cache_type_v) /
                                   shape.layers.size();
  return plus(begun, plus(times(floats, sizeof(float)), rounded_activations(shape, rows, n_threads)));
}

uint64_t workspace_of(const ModelShape& shape, const MemorySettings& settings, BackendKind kind) {
  if (kind == BackendKind::kTbqServer) {
    return bundled_workspace(shape, settings);
  }
  // llama.cpp reserves logits for a whole ubatch; of the rest about as many buffers live at once as counted here.
  uint64_t per_token = plus(shape.n_vocab, times(4, shape.n_embd));
  per_token = plus(per_token, plus(times(3, q_width_of(shape)), times(3, shape.n_ff)));
  // What each chosen expert gives for a token, and the same weighted.
  per_token = plus(per_token, times(2, times(shape.n_expert_used, shape.n_embd)));
  if (!settings.flash_attn) {  // one score per head and cached token
    per_token = plus(per_token, times(shape.n_head, settings.n_ctx.value_or(shape.n_ctx_train)));
  }
  return times(times(per_token, settings.n_ubatch), sizeof(float));
}

// Weights that cannot be dropped and read again, by what the configuration says.
uint64_t held_weights(const ModelShape& shape, const MemorySettings& settings, BackendKind kind,
                      bool has_gpu) {
  if (settings.mlock || !settings.mmap) {
    return shape.weight_bytes - shape.weight_bytes / kSpareShare;
  }
  // tbq-server may compute on mapped pages in place; llama.cpp copies what it puts on a GPU, the last layers first.
  if (kind != BackendKind::kLlamaServer || !has_gpu || !settings.n_gpu_layers) {
    return 0;
  }
  uint64_t bytes = 0, left = *settings.n_gpu_layers;
  for (size_t i = shape.layer_bytes.size(); i > 0 && left > 0; --i, --left) {
    bytes = plus(bytes, shape.layer_bytes[i - 1]);
  }
  return bytes;
}

}  // namespace

std::optional<uint64_t> kv_row_bytes(std::string_view cache_type, uint64_t head_dim) {
  const base::KvType* type = base::find_kv_type(cache_type);
  if (type == nullptr) {
    return std::nullopt;
  }
  return head_dim < uint64_t{1} << 56 ? base::kv_row_bytes(*type, head_dim) : kMost;
}

std::optional<uint64_t> ModelShape::kv_bytes(uint64_t n_ctx, std::string_view k, std::string_view v,
                                             std::string_view edge, uint64_t n_edge) const {
  if (layers.empty()) {
    return std::nullopt;
  }
  uint64_t per_token = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const KvLayer& layer = layers[i];
    const bool is_edge = std::min(i, layers.size() - 1 - i) < n_edge;
    auto k_row = kv_row_bytes(is_edge ? edge : k, layer.dim_k);
    auto v_row = kv_row_bytes(is_edge ? edge : v, layer.dim_v);
    if (!k_row || !v_row) {
      return std::nullopt;
    }
    per_token = plus(per_token, times(layer.heads, plus(*k_row, *v_row)));
  }
  const uint64_t padded = plus(n_ctx, kContextStep - 1) / kContextStep * kContextStep;
  return times(per_token, padded);
}

uint64_t ModelShape::copied_bytes(uint64_t tokens, std::string_view k, std::string_view v,
                                  std::string_view edge, uint64_t n_edge) const {
  const auto row = [](std::string_view type, uint64_t dim) {
    return type == "f32" || type == "f16" || type == "bf16" ? 0 : times(2, dim);
  };
  uint64_t per_token = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const KvLayer& layer = layers[i];
    const bool is_edge = std::min(i, layers.size() - 1 - i) < n_edge;
    per_token = plus(per_token, times(layer.heads, plus(row(is_edge ? edge : k, layer.dim_k),
                                                        row(is_edge ? edge : v, layer.dim_v))));
  }
  return times(per_token, tokens);
}

MemoryEstimate estimate_memory(const ModelShape& shape, const MemorySettings& settings, BackendKind kind,
                               bool has_gpu) {
  MemoryEstimate estimate;
  estimate.weights = shape.weight_bytes;
  const uint64_t n_ctx = settings.n_ctx.value_or(shape.n_ctx_train);
  estimate.kv = shape
                    .kv_bytes(n_ctx, settings.cache_type_k, settings.cache_type_v, settings.edge_type,
                              settings.edge_layers)
                    .value_or(0);
  if (kind == BackendKind::kTbqServer && n_ctx > 0) {
    estimate.kv = plus(estimate.kv,
                       shape.copied_bytes(copied_tokens(settings, n_ctx), settings.cache_type_k,
                                          settings.cache_type_v, settings.edge_type, settings.edge_layers));
  }
  estimate.workspace = workspace_of(shape, settings, kind);
  if (settings.moved) {
    return estimate;
  }
  estimate.held = held_weights(shape, settings, kind, has_gpu);
  estimate.least = estimate.held;
  if (shape.plain_kv && settings.n_ctx) {
    // A ubatch is never more than the context, and its activations are there at least once.
    const uint64_t rows = std::min(settings.n_ubatch, *settings.n_ctx);
    estimate.least = plus(estimate.least, plus(estimate.kv, times(times(rows, shape.n_embd), sizeof(float))));
  }
  return estimate;
}

std::string why_it_cannot_fit(const MemoryEstimate& estimate, const MemorySettings& settings,
                              const HostCapacity& host) {
  if (host.memory == 0 || estimate.least <= host.usable()) {
    return "";
  }
  std::string has = base::format_bytes(host.memory);
  if (host.swap > 0) {
    has += fmt::format(" and {} of swap", base::format_bytes(host.swap));
  }
  if (host.gpu > 0) {
    has += fmt::format(" and {} on GPUs", base::format_bytes(host.gpu));
  }
  std::string parts = estimate.kv > 0 && settings.n_ctx
                          ? fmt::format("KV cache {} for {} tokens of {}/{}", base::format_bytes(estimate.kv),
                                        *settings.n_ctx, settings.cache_type_k, settings.cache_type_v)
                          : "";
  if (estimate.held > 0 && (settings.mlock || !settings.mmap)) {
    parts += fmt::format("{}weights {}{}", parts.empty() ? "" : ", ", base::format_bytes(estimate.held),
                         settings.mlock ? " locked" : " copied");
  }
  return fmt::format("it takes at least {} ({}), and there are {}, of which {} stay free",
                     base::format_bytes(estimate.least), parts, has, base::format_bytes(host.floor));
}

}  // namespace study
