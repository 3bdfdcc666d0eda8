// Planning and opening a Context: what it needs, whether that is there, and the parts it is spread over.

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "src/engine/context_state.h"
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

}  // namespace

base::Result<Context::State::Planned> Context::State::make_plan(const Model& model,
                                                                const ContextOptions& options,
                                                                std::span<const PartId> cuts,
                                                                uint64_t reclaimable) {
  auto plan = plan_context(model, options);
  if (!plan) {
    return plan.failure();
  }
  const auto segments = cut_model(model.hp.n_layer, cuts);
  if (!segments) {
    return segments.failure();
  }
  Planned out{*std::move(plan), {}, 0, 0};
  ContextInfo& info = out.plan.info;
  out.hidden_bytes =
      static_cast<uint64_t>(info.n_ubatch) * static_cast<uint64_t>(model.hp.n_embd) * sizeof(float);
  out.logits_bytes = static_cast<uint64_t>(std::min(info.n_ubatch, kLogitRows)) *
                     static_cast<uint64_t>(model.hp.n_vocab) * sizeof(float);
  Need need{0, 0, out.hidden_bytes + out.logits_bytes, {}};
  for (const Segment& parts : *segments) {
    Share share{parts, make_cpu_backend(), nullptr};
    const auto part_need = share.backend->plan(model, parts, out.plan.kv, out.plan.backend);
    if (!part_need) {
      return part_need.failure();
    }
    need.kv += part_need->kv;
    need.workspace += part_need->workspace;
    std::ranges::copy(part_need->fallbacks, std::back_inserter(info.fallbacks));
    out.shares.push_back(std::move(share));
  }
  if (options.kv_center != "off") {
    need.workspace += KvMeans::bytes(model.hp);
  }
  uint64_t available = 0;
  if (__builtin_add_overflow(available_bytes(), reclaimable, &available)) {
    available = std::numeric_limits<uint64_t>::max();
  }
  auto fits = check_memory(need, out.plan, model.mapped ? model.weight_bytes : 0, available, info.fallbacks);
  if (!fits) {
    return fits.failure();
  }
  info.kv_bytes = need.kv;
  info.exact_bytes = out.plan.kv.exact.slots() > 0 ? out.plan.kv.copies().bytes() : 0;
  info.bits_per_value = bits_per_value(out.plan.kv, need.kv);
  info.workspace_bytes = need.workspace;
  info.backend = out.shares.front().backend->caps();
  return out;
}

base::Result<std::unique_ptr<Context>> Context::open(std::shared_ptr<const Model> model,
                                                     const ContextOptions& options) {
  return open_split(std::move(model), options, {});
}

base::Result<void> Context::check(const Model& model, const ContextOptions& options, uint64_t reclaimable) {
  auto planned = State::make_plan(model, options, {}, reclaimable);
  return planned ? base::Result<void>() : planned.failure();
}

base::Result<std::unique_ptr<Context>> Context::open_split(std::shared_ptr<const Model> model,
                                                           const ContextOptions& options,
                                                           std::span<const PartId> cuts) {
  AR_CHECK(model != nullptr, "a context without a model");
  auto planned = State::make_plan(*model, options, cuts, 0);
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
  return std::unique_ptr<Context>(
      new Context(std::make_unique<State>(std::move(model), std::move(plan), std::move(planned->shares),
                                          *std::move(hidden), *std::move(logits))));
}

Context::Context(std::unique_ptr<State> state) : state_(std::move(state)) {}
Context::~Context() = default;

}  // namespace engine
