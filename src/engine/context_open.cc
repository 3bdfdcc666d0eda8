// Planning and opening a Context: what it needs, whether that is there, and the parts it is spread over.

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "src/engine/context_state.h"
#include "src/engine/gpu.h"
#include "src/engine/kv_means.h"
#include "src/os/proc.h"

namespace engine {
namespace {

// Where /proc is not to be had nothing is refused.
uint64_t available_bytes() {
  const os::MemInfo memory = os::read_meminfo();
  return memory.total != 0 ? memory.available : std::numeric_limits<uint64_t>::max();
}

// Of a full cache.
double bits_per_value(const KvPlan& kv, uint64_t bytes) {
  double values = 0;
  for (const KvLayer& layer : kv.layers) {
    values += double(layer.heads) * (layer.dim_k + layer.dim_v);
  }
  return static_cast<double>(bytes) * 8 / (values * kv.n_pages * kv.page_tokens);
}

// Rows whose logits are computed together. A vocabulary of 200,000 makes that 25 MB.
constexpr int kLogitRows = 32;

base::Result<std::vector<Segment>> cut_model(int n_layer, std::span<const PartId> cuts) {
  std::vector<Segment> segments;
  int first = 0;
  const int end = 2 * n_layer + 2;
  for (const PartId& cut : cuts) {
    const int at = cut.order(n_layer);
    if (at <= first || at >= end || cut.layer < 0 || cut.layer >= n_layer) {
      return base::error("split", fmt::format("the cut before part {} is out of order", at),
                         "give cuts in the order of execution, the first part left out");
    }
    segments.push_back({PartId::at(first, n_layer), PartId::at(at - 1, n_layer)});
    first = at;
  }
  segments.push_back({PartId::at(first, n_layer), PartId::at(end - 1, n_layer)});
  return segments;
}

void add(const Need& need, Need& to) {
  to.weights += need.weights;
  to.kv += need.kv;
  to.workspace += need.workspace;
}

// As --n-gpu-layers counts: attention of a layer, and the output.
int layers_on_gpu(std::span<const Placed> placed, int n_layer) {
  int n = 0;
  for (const Placed& part : placed) {
    const LayerSpan layers = attention_layers(part.parts, n_layer);
    n += part.on_gpu ? layers.last - layers.first + 1 + (part.parts.last.part == Part::kHead ? 1 : 0) : 0;
  }
  return n;
}

// Of layers on the GPU the most that fit, with everything else as it is.
int fitting_layers(const Model& model, const ContextOptions& options, const ContextPlan& plan,
                   uint64_t available) {
  for (int n = model.hp.n_layer; n > 0; --n) {
    const std::vector<Placed> placed = place_layers(model.hp.n_layer, n);
    const auto need = options.gpu->make_backend()->plan(model, placed.back().parts, plan.kv, plan.backend);
    if (need.ok() && need->weights + need->kv + need->workspace <= available) {
      return n;
    }
  }
  return 0;
}

// Before anything is allocated there. `on_host`: what the context takes of the host's memory, which may be the same.
base::Result<void> check_gpu(const Model& model, const ContextOptions& options, const ContextPlan& plan,
                             const Need& need, uint64_t on_host, uint64_t reclaimable) {
  auto free = options.gpu->available();
  if (!free) {
    return free.failure();
  }
  uint64_t available = *free + reclaimable;
  available -= options.gpu->has_host_memory() ? std::min(available, on_host) : 0;
  const uint64_t wanted = need.weights + need.kv + need.workspace;
  if (wanted <= available) {
    return {};
  }
  return gpu_too_small(need, plan, available, options.gpu->name(),
                       fitting_layers(model, options, plan, available));
}

}  // namespace

base::Result<Context::State::Planned> Context::State::make_plan(const Model& model,
                                                                const ContextOptions& options,
                                                                std::span<const PartId> cuts,
                                                                const ContextInfo* dropped) {
  auto plan = plan_context(model, options);
  if (!plan) {
    return plan.failure();
  }
  const auto segments = cut_model(model.hp.n_layer, cuts);
  if (!segments) {
    return segments.failure();
  }
  if (options.gpu != nullptr && options.n_gpu_layers != 0) {
    if (auto looked = options.gpu->look_at(model); !looked) {
      return looked.failure();
    }
  }
  std::vector<Placed> placed =
      place_layers(model.hp.n_layer, options.gpu == nullptr ? 0 : options.n_gpu_layers);
  if (!cuts.empty()) {
    placed.clear();
    for (const Segment& parts : *segments) {
      placed.push_back({parts, options.gpu != nullptr && placed.size() % 2 == 1});
    }
  }
  Planned out{*std::move(plan), {}, 0, 0};
  ContextInfo& info = out.plan.info;
  out.hidden_bytes =
      static_cast<uint64_t>(info.n_ubatch) * static_cast<uint64_t>(model.hp.n_embd) * sizeof(float);
  out.logits_bytes = static_cast<uint64_t>(std::min(info.n_ubatch, kLogitRows)) *
                     static_cast<uint64_t>(model.hp.n_vocab) * sizeof(float);
  Need host{0, 0, out.hidden_bytes + out.logits_bytes, {}}, gpu;
  std::vector<std::string> backends;
  for (const Placed& part : placed) {
    Share share{part.parts, part.on_gpu, part.on_gpu ? options.gpu->make_backend() : make_cpu_backend(),
                nullptr};
    const auto part_need = share.backend->plan(model, part.parts, out.plan.kv, out.plan.backend);
    if (!part_need) {
      return part_need.failure();
    }
    add(*part_need, part.on_gpu ? gpu : host);
    for (const std::string& fallback : part_need->fallbacks) {
      if (std::ranges::find(info.fallbacks, fallback) == info.fallbacks.end()) {
        info.fallbacks.push_back(fallback);
      }
    }
    if (const std::string caps = share.backend->caps(); std::ranges::find(backends, caps) == backends.end()) {
      backends.push_back(caps);
    }
    out.shares.push_back(std::move(share));
  }
  if (options.kv_center != "off") {
    host.workspace += KvMeans::bytes(model.hp);
  }
  const bool on_host = std::ranges::any_of(placed, [](const Placed& part) { return !part.on_gpu; });
  const bool on_gpu = std::ranges::any_of(placed, &Placed::on_gpu);
  const auto freed = [](uint64_t all, uint64_t of_gpu) { return all - std::min(all, of_gpu); };
  const uint64_t reclaimable = dropped == nullptr
                                   ? 0
                                   : freed(dropped->kv_bytes, dropped->gpu_kv_bytes) +
                                         freed(dropped->workspace_bytes, dropped->gpu_workspace_bytes);
  uint64_t available = 0;
  if (__builtin_add_overflow(available_bytes(), reclaimable, &available)) {
    available = std::numeric_limits<uint64_t>::max();
  }
  auto fits = check_memory(host, out.plan, model.mapped && on_host ? model.weight_bytes : 0, available,
                           info.fallbacks);
  if (!fits) {
    return fits.failure();
  }
  if (on_gpu) {
    fits = check_gpu(model, options, out.plan, gpu, host.kv + host.workspace,
                     dropped == nullptr ? 0 : dropped->gpu_kv_bytes + dropped->gpu_workspace_bytes);
    if (!fits) {
      return fits.failure();
    }
  }
  info.kv_bytes = host.kv + gpu.kv;
  info.exact_bytes = out.plan.kv.exact.slots() > 0 ? out.plan.kv.copies().bytes() : 0;
  info.bits_per_value = bits_per_value(out.plan.kv, info.kv_bytes);
  info.workspace_bytes = host.workspace + gpu.workspace;
  info.n_gpu_layers = layers_on_gpu(placed, model.hp.n_layer);
  info.gpu_weight_bytes = gpu.weights;
  info.gpu_kv_bytes = gpu.kv;
  info.gpu_workspace_bytes = gpu.workspace;
  info.backend = fmt::format("{}", fmt::join(backends, " + "));
  return out;
}

base::Result<std::unique_ptr<Context>> Context::open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options) {
  return open_split(std::move(model), options, {});
}

base::Result<void> Context::check(const Model& model, const ContextOptions& options,
                                  const ContextInfo* dropped) {
  auto planned = State::make_plan(model, options, {}, dropped);
  return planned ? base::Result<void>() : planned.failure();
}

base::Result<std::unique_ptr<Context>> Context::open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts) {
  AR_CHECK(model != nullptr, "a context without a model");
  auto planned = State::make_plan(*model, options, cuts, nullptr);
  if (!planned) {
    return planned.failure();
  }
  ContextPlan& plan = planned->plan;
  AR_CHECK(options.kv_center == "off" || plan.kv.means != nullptr, "the means of K and V were not looked up");
  for (State::Share& share : planned->shares) {
    if (auto bound = share.backend->bind(model, share.parts); !bound) {
      return bound.failure();
    }
    auto session = share.backend->open(plan.kv, plan.backend);
    if (!session) {
      return session.failure();
    }
    share.session = *std::move(session);
  }
  auto hidden = Arena::allocate(planned->hidden_bytes, "residual stream");
  if (!hidden) {
    return hidden.failure();
  }
  auto logits = Arena::allocate(planned->logits_bytes, "logits");
  if (!logits) {
    return logits.failure();
  }
  for (State::Share& share : planned->shares) {
    share.session->lend({hidden->data(), hidden->size()});
    if (share.parts.last.part == Part::kHead) {
      share.session->lend({logits->data(), logits->size()});
    }
  }
  return std::unique_ptr<Context>(
      new Context(std::make_unique<State>(std::move(model), std::move(plan), std::move(planned->shares),
                                          *std::move(hidden), *std::move(logits))));
}

Context::Context(std::unique_ptr<State> state) : state_(std::move(state)) {}
Context::~Context() = default;

}  // namespace engine
