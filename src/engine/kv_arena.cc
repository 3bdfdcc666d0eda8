#include "src/engine/kv_arena.h"

#include <fmt/format.h>

namespace engine {

KvArena::KvArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* base)
    : layers_(plan.layers.size()), n_pages_(plan.n_pages) {
  for (int i = first_layer; i <= last_layer; ++i) {
    const KvLayer& kv = plan.layers[static_cast<size_t>(i)];
    Layer& layer = layers_[static_cast<size_t>(i)];
    layer.k_bytes = kv.k == nullptr ? 0 : kv.k->page_bytes(kv.dim_k);
    layer.v_bytes = kv.v == nullptr ? 0 : kv.v->page_bytes(kv.dim_v);
    layer.v_offset = layer.k_bytes * static_cast<size_t>(kv.heads);
    layer.page_bytes = layer.v_offset + layer.v_bytes * static_cast<size_t>(kv.heads);
    layer.base = base == nullptr ? nullptr : base + bytes_;
    bytes_ += layer.page_bytes * static_cast<size_t>(plan.n_pages);
  }
}

base::Result<std::span<std::byte>> KvArena::checked_page(int layer, int page, size_t bytes) const {
  if (layer < 0 || layer >= n_layers() || !has(layer) || page < 0 || page >= n_pages_) {
    return base::error("KV cache", fmt::format("there is no page {} of layer {} here", page, layer));
  }
  const std::span<std::byte> stored = this->page(layer, page);
  if (stored.size() != bytes) {
    return base::error("KV cache",
                       fmt::format("a page of layer {} has {} bytes, not {}", layer, stored.size(), bytes));
  }
  return stored;
}

namespace {

// The step's own pages, of one layer: as many sides as that has which needs most.
KvPlan step_plan(const KvPlan& kv) {
  KvPlan plan;
  plan.n_pages = kv.exact.step_pages;
  KvLayer layer = kv.layers.front();
  layer.k = layer.v = nullptr;
  for (const KvLayer& of : kv.layers) {
    layer.k = of.exact_k != nullptr ? of.exact_k : layer.k;
    layer.v = of.exact_v != nullptr ? of.exact_v : layer.v;
  }
  plan.layers = {layer};
  return plan;
}

}  // namespace

ExactArena::ExactArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* kept, std::byte* step)
    : plan_(plan.exact),
      kept_(plan.copies(), first_layer, last_layer, kept),
      step_(step_plan(plan), 0, 0, step) {}

uint64_t ExactArena::step_bytes(const KvPlan& plan) {
  return KvArena(step_plan(plan), 0, 0, nullptr).bytes();
}

}  // namespace engine
