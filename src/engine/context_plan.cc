#include "src/engine/context_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/dots.h"
#include "src/base/units.h"
#include "src/engine/kv_means.h"
#include "src/os/host.h"

namespace engine {
namespace {

constexpr int kContextStep = 256;  // as llama-server pads
constexpr int kMaxThreads = 1024;

base::Result<const kernels::KvFormat*> cache_type(const char* flag, const std::string& name) {
  const kernels::KvFormat* format = kernels::find_kv_format(name);
  if (format == nullptr) {
    return base::error(flag, fmt::format("unknown cache type '{}'", name),
                       fmt::format("use one of: {}", kernels::kv_format_names()));
  }
  return format;
}

base::Result<void> check_range(const char* flag, int value, int min, int max) {
  if (value < min || value > max) {
    return base::error(flag, fmt::format("{} is out of range", value), fmt::format("use {} to {}", min, max));
  }
  return {};
}

bool rotates(const kernels::KvFormat& format, const std::string& wish) {
  const bool may = format.group_values > 0 && !format.rotated;
  return may && (wish == "on" || (wish == "auto" && format.better_rotated));
}

// The mean of all layers.
double bits_per_value(const KvPlan& plan, const kernels::KvFormat* KvLayer::*side) {
  double bits = 0;
  for (const KvLayer& layer : plan.layers) {
    bits += static_cast<double>((layer.*side)->page_bytes(layer.dim_k)) * 8 /
            (kernels::kPageTokens * double(layer.dim_k));
  }
  return bits / static_cast<double>(plan.layers.size());
}

// What kv_first_last and kv_center make of a plan whose layers are all alike.
base::Result<void> apply_policy(const Model& model, const ContextOptions& options, ContextPlan& plan) {
  std::vector<KvLayer>& layers = plan.kv.layers;
  auto edges = parse_first_last(options.kv_first_last);
  if (!edges) {
    return edges.failure();
  }
  if (2 * static_cast<size_t>(edges->n) > layers.size()) {
    return base::error("--kv-first-last",
                       fmt::format("the model has {} layers, not {} first and {} last ones", layers.size(),
                                   edges->n, edges->n),
                       fmt::format("use {},{} or less", edges->type, layers.size() / 2));
  }
  for (size_t i = 0; i < static_cast<size_t>(edges->n); ++i) {
    for (KvLayer* layer : {&layers[i], &layers[layers.size() - 1 - i]}) {
      layer->k = layer->v = kernels::find_kv_format(edges->type);
      layer->rotate_k = layer->rotate_v = rotates(*layer->k, options.kv_rotate);
    }
  }
  plan.info.kv_first_last = options.kv_first_last;
  plan.info.edge_layers = edges->n;
  plan.info.kv_center = options.kv_center;
  if (options.kv_center == "off" || options.kv_means == nullptr) {
    return {};
  }
  if (auto fits = check_kv_means(*options.kv_means, model, "--kv-center"); !fits) {
    return fits;
  }
  plan.kv.means = options.kv_means;
  plan.info.kv_center_id = options.kv_means->id_text();
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].k_mean = options.kv_means->k(static_cast<int>(i));
    layers[i].v_mean = options.kv_means->v(static_cast<int>(i));
  }
  return {};
}

}  // namespace

int64_t padded_context(int64_t tokens) {
  return (tokens + kContextStep - 1) / kContextStep * kContextStep;
}

base::Result<FirstLast> parse_first_last(std::string_view text) {
  FirstLast out;
  if (text == "off") {
    return out;
  }
  const size_t comma = text.find(',');
  const std::string_view type = text.substr(0, comma);
  const std::string_view count = comma == std::string_view::npos ? "" : text.substr(comma + 1);
  if (kernels::find_kv_format(type) == nullptr) {
    return base::error(
        "--kv-first-last", fmt::format("unknown cache type '{}'", type),
        fmt::format("write TYPE,N, as q8_0,2, or off; TYPE is one of: {}", kernels::kv_format_names()));
  }
  const auto [end, failed] = std::from_chars(count.data(), count.data() + count.size(), out.n);
  if (failed != std::errc() || end != count.data() + count.size() || out.n < 0) {
    return base::error("--kv-first-last", fmt::format("'{}' is no number of layers", count),
                       fmt::format("write {},2, or off", type));
  }
  out.type = type;
  return out;
}

namespace {

// The copies of sink and tail, for sides that are quantized.
void plan_copies(const ContextOptions& options, ContextPlan& plan) {
  plan.info.kv_sink = options.kv_sink;
  plan.info.kv_tail = options.kv_tail;
  if (options.kv_sink == 0 && options.kv_tail == 0) {
    return;
  }
  const kernels::KvFormat* f16 = kernels::find_kv_format("f16");
  bool any = false;
  for (KvLayer& layer : plan.kv.layers) {
    layer.exact_k = layer.k->group_values > 0 ? f16 : nullptr;
    layer.exact_v = layer.v->group_values > 0 ? f16 : nullptr;
    any = any || layer.exact_k != nullptr || layer.exact_v != nullptr;
  }
  if (!any) {
    plan.info.fallbacks.push_back(
        fmt::format("--kv-sink and --kv-tail do nothing: a cache of {}/{} is not quantized",
                    plan.info.cache_type_k, plan.info.cache_type_v));
    return;
  }
  KvPlan& kv = plan.kv;
  kv.exact = plan_exact(options.kv_sink, options.kv_tail, kv.page_tokens, kv.seq_pages, kv.n_seqs,
                        plan.info.n_ubatch);
  plan.info.exact_sink = kv.exact.sink_pages * kv.page_tokens;
  plan.info.exact_tail = kv.exact.tail;
}

}  // namespace

base::Result<ContextPlan> plan_context(const Model& model, const ContextOptions& options) {
  constexpr int kAny = std::numeric_limits<int>::max();
  const std::pair<const char*, std::pair<int, std::pair<int, int>>> ranges[] = {
      {"--ctx-size", {options.n_ctx, {0, kAny}}},
      {"--parallel", {options.n_seqs, {1, 4096}}},
      {"--batch-size", {options.n_batch, {1, kAny}}},
      {"--ubatch-size", {options.n_ubatch, {1, kAny}}},
      {"--kv-sink", {options.kv_sink, {0, kAny}}},
      {"--kv-tail", {options.kv_tail, {0, kAny}}},
      {"--threads", {options.n_threads, {0, kMaxThreads}}},
      {"--threads-batch", {options.n_threads_batch, {0, kMaxThreads}}},
  };
  for (const auto& [flag, range] : ranges) {
    if (auto fine = check_range(flag, range.first, range.second.first, range.second.second); !fine) {
      return fine.failure();
    }
  }
  const auto k = cache_type("--cache-type-k", options.cache_type_k);
  if (!k) {
    return k.failure();
  }
  const auto v = cache_type("--cache-type-v", options.cache_type_v);
  if (!v) {
    return v.failure();
  }
  if (options.kv_rotate != "on" && options.kv_rotate != "off" && options.kv_rotate != "auto") {
    return base::error("--kv-rotate", fmt::format("'{}' is not a choice", options.kv_rotate),
                       "use on, off or auto");
  }
  if (options.activations != "q8" && options.activations != "f32") {
    return base::error("--activations", fmt::format("unknown type '{}'", options.activations),
                       "use one of: q8, f32");
  }
  const HParams& hp = model.hp;
  const int64_t asked = options.n_ctx == 0 ? hp.n_ctx_train : options.n_ctx;
  const int64_t padded = padded_context(asked), n_seqs = options.n_seqs;
  // As llama-server shares it out: N sequences may come to a little more than was asked for.
  const int64_t n_ctx = options.kv_unified ? padded : padded_context(std::max<int64_t>(1, padded / n_seqs));
  const int64_t total = options.kv_unified ? padded : n_ctx * n_seqs;
  if (total > std::numeric_limits<int>::max()) {
    return base::error("--ctx-size",
                       fmt::format("{} sequences of {} tokens are more than can be addressed", n_seqs, n_ctx),
                       fmt::format("use at most {} tokens", std::numeric_limits<int>::max() / n_seqs /
                                                                kContextStep * n_seqs * kContextStep));
  }
  if (const int most = std::max(options.kv_sink, options.kv_tail); most > n_ctx) {
    return base::error(options.kv_sink == most ? "--kv-sink" : "--kv-tail",
                       fmt::format("{} is more than the {} tokens of a sequence", most, n_ctx),
                       fmt::format("use {} or less, or raise --ctx-size", n_ctx));
  }
  ContextPlan plan;
  plan.info.n_ctx = static_cast<int>(n_ctx);
  plan.info.n_seqs = options.n_seqs;
  plan.info.kv_unified = options.kv_unified;
  plan.info.n_batch = static_cast<int>(std::min<int64_t>(options.n_batch, total));
  plan.info.n_ubatch = std::min(options.n_ubatch, plan.info.n_batch);
  plan.info.n_threads = options.n_threads != 0 ? options.n_threads : os::usable_cores();
  plan.info.n_threads_batch = options.n_threads_batch != 0 ? options.n_threads_batch : plan.info.n_threads;
  plan.info.cache_type_k = (*k)->name;
  plan.info.cache_type_v = (*v)->name;
  plan.info.kv_rotate = options.kv_rotate;
  plan.info.weight_bytes = model.weight_bytes;
  const int64_t of_one = options.kv_unified ? asked : asked / n_seqs;
  if (of_one > hp.n_ctx_train) {
    plan.info.fallbacks.push_back(fmt::format(
        "the model was trained for {} tokens of context, {} were asked for: quality beyond may suffer",
        hp.n_ctx_train, of_one));
  }
  const bool quantized = options.activations == "q8" && std::string_view(kernels::dots_isa()) != "scalar";
  plan.info.activations = quantized ? "q8" : "f32";
  if (plan.info.activations != options.activations) {
    plan.info.fallbacks.emplace_back(
        "this processor has no integer dots (AVX2, AVX-512 VNNI or Arm's dotprod): activations stay f32, "
        "exact and slower");
  }
  plan.backend = {.n_threads = plan.info.n_threads,
                  .n_threads_batch = plan.info.n_threads_batch,
                  .n_ubatch = plan.info.n_ubatch,
                  .quantized_activations = quantized};
  plan.kv.n_seqs = options.n_seqs;
  plan.kv.n_pages = static_cast<int>(total / kernels::kPageTokens);
  plan.kv.seq_pages = static_cast<int>(n_ctx / kernels::kPageTokens);
  plan.kv.layers.assign(static_cast<size_t>(hp.n_layer),
                        KvLayer{*k, *v, hp.n_head_kv, hp.head_dim, hp.head_dim, hp.n_head / hp.n_head_kv,
                                rotates(**k, options.kv_rotate), rotates(**v, options.kv_rotate), quantized});
  plan.info.k_rotated = plan.kv.layers.front().k_rotated();
  plan.info.v_rotated = plan.kv.layers.front().v_rotated();
  if (auto applied = apply_policy(model, options, plan); !applied) {
    return applied.failure();
  }
  plan.info.edge_rotated = plan.info.edge_layers > 0 && plan.kv.layers.front().k_rotated();
  plan_copies(options, plan);
  plan.info.k_bits_per_value = bits_per_value(plan.kv, &KvLayer::k);
  plan.info.v_bits_per_value = bits_per_value(plan.kv, &KvLayer::v);
  if (int64_t{plan.kv.exact.slots()} * options.n_seqs > kAny ||
      plan.kv.bytes() == std::numeric_limits<uint64_t>::max()) {
    return base::error("--ctx-size",
                       fmt::format("{} sequences of {} tokens need more KV cache than can be addressed",
                                   options.n_seqs, n_ctx),
                       "use fewer tokens or sequences");
  }
  return plan;
}

base::Result<void> check_memory(const Need& need, const ContextPlan& plan, uint64_t mapped_weights,
                                uint64_t available, std::vector<std::string>& fallbacks) {
  uint64_t wanted = 0, with_weights = 0;
  const bool overflow = __builtin_add_overflow(need.kv, need.workspace, &wanted);
  if (overflow || wanted > available) {
    constexpr double kMiB = 1 << 20;
    const int n_steps = plan.kv.n_pages / (kContextStep / kernels::kPageTokens);
    // Copies of sinks and tails take the same of a context of any length, or less.
    const uint64_t copies = std::min(plan.kv.copies().bytes(), need.kv);
    const uint64_t per_step = (need.kv - copies) / static_cast<uint64_t>(n_steps);
    const uint64_t fixed = need.workspace > std::numeric_limits<uint64_t>::max() - copies
                               ? std::numeric_limits<uint64_t>::max()
                               : need.workspace + copies;
    const uint64_t left = available > fixed ? available - fixed : 0;
    // Every sequence has whole steps.
    const uint64_t parts = plan.info.kv_unified ? 1 : static_cast<uint64_t>(plan.kv.n_seqs);
    const uint64_t fits = left / std::max<uint64_t>(per_step, 1) / parts * parts * kContextStep;
    return base::error(
        "--ctx-size",
        fmt::format(
            "a context of {} tokens ({}/{}, {} sequences) needs {:.2f} MiB of KV cache and {:.2f} MiB of "
            "workspace, but {:.2f} MiB of memory are available",
            plan.info.n_ctx, plan.info.cache_type_k, plan.info.cache_type_v, plan.kv.n_seqs,
            static_cast<double>(need.kv) / kMiB, static_cast<double>(need.workspace) / kMiB,
            static_cast<double>(available) / kMiB),
        fits > 0
            ? fmt::format("use --ctx-size {} or less, or a smaller cache type", fits)
            : std::string("free memory, or use fewer sequences or a smaller model: not even 256 tokens fit"));
  }
  if (__builtin_add_overflow(wanted, mapped_weights, &with_weights) || with_weights > available) {
    fallbacks.push_back(fmt::format(
        "the weights ({}) will not stay in memory beside the KV cache ({}): expect reads "
        "from disk; {} are available",
        base::format_bytes(mapped_weights), base::format_bytes(need.kv), base::format_bytes(available)));
  }
  return {};
}

std::vector<Placed> place_layers(int n_layer, int n_gpu_layers) {
  const int end = 2 * n_layer + 1;  // the head
  const auto parts = [&](int first, int last) {
    return Segment{PartId::at(first, n_layer), PartId::at(last, n_layer)};
  };
  if (n_gpu_layers == 0) {
    return {{parts(0, end), false}};
  }
  if (n_gpu_layers < 0 || n_gpu_layers > n_layer) {
    return {{parts(0, end), true}};
  }
  const int first = end - 2 * (n_gpu_layers - 1);
  return {{parts(0, first - 1), false}, {parts(first, end), true}};
}

base::Error gpu_too_small(const Need& need, const ContextPlan& plan, uint64_t available,
                          const std::string& gpu, int fitting_layers) {
  const auto n_steps = static_cast<uint64_t>(plan.kv.n_pages) / (kContextStep / kernels::kPageTokens);
  const uint64_t fixed = need.weights + need.workspace;
  // Copies of sinks and tails, and what grows of the workspace, are few beside the rest.
  const uint64_t per_step = std::max<uint64_t>(1, need.kv / std::max<uint64_t>(1, n_steps));
  const uint64_t parts = plan.info.kv_unified ? 1 : static_cast<uint64_t>(plan.kv.n_seqs);
  const uint64_t fits = available > fixed ? (available - fixed) / per_step / parts * parts * kContextStep : 0;
  std::vector<std::string> ways;
  if (fits > 0) {
    ways.push_back(fmt::format("--ctx-size {} or less", fits));
  }
  ways.push_back(
      fmt::format("--n-gpu-layers {}{}", fitting_layers, fitting_layers == 0 ? " (the CPU)" : " or less"));
  return base::error(
      "GPU memory",
      fmt::format("{} needed on {} for weights ({}), KV cache ({}, {} tokens) and workspace ({}), but {} "
                  "are available",
                  base::format_bytes(fixed + need.kv), gpu, base::format_bytes(need.weights),
                  base::format_bytes(need.kv), plan.info.n_ctx, base::format_bytes(need.workspace),
                  base::format_bytes(available)),
      fmt::format("use {}, or a smaller cache type", fmt::join(ways, ", ")));
}

}  // namespace engine
