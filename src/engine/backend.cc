#include "src/engine/backend.h"

#include <algorithm>
#include <limits>

namespace engine {

int PartId::order(int n_layer) const {
  switch (part) {
    case Part::kEmbed:
      return 0;
    case Part::kAttn:
      return 1 + 2 * layer;
    case Part::kFfn:
      return 2 + 2 * layer;
    case Part::kHead:
      return 1 + 2 * n_layer;
  }
  AR_CHECK(false, "no such part");
}

PartId PartId::at(int order, int n_layer) {
  AR_CHECK(order >= 0 && order <= 2 * n_layer + 1, "no such position");
  if (order == 0) {
    return {Part::kEmbed, 0};
  }
  if (order == 2 * n_layer + 1) {
    return {Part::kHead, 0};
  }
  return {order % 2 == 1 ? Part::kAttn : Part::kFfn, (order - 1) / 2};
}

LayerSpan attention_layers(const Segment& parts, int n_layer) {
  const int first = parts.first.order(n_layer), last = parts.last.order(n_layer);
  return {first / 2, std::min((last + 1) / 2, n_layer) - 1};  // attn l is at 1 + 2l
}

uint64_t KvLayer::page_bytes() const {
  const auto of_head = [](const kernels::KvFormat* format, int dim) {
    return format == nullptr ? 0 : uint64_t{format->page_bytes(dim)};
  };
  return static_cast<uint64_t>(heads) * (of_head(k, dim_k) + of_head(v, dim_v));
}

uint64_t KvPlan::bytes() const {
  uint64_t total = exact.slots() > 0 ? copies().bytes() : 0;
  bool overflow = false;
  for (const KvLayer& layer : layers) {
    uint64_t bytes = 0;
    overflow = __builtin_mul_overflow(layer.page_bytes(), static_cast<uint64_t>(n_pages), &bytes) || overflow;
    overflow = __builtin_add_overflow(total, bytes, &total) || overflow;
  }
  return overflow ? std::numeric_limits<uint64_t>::max() : total;
}

KvPlan KvPlan::copies() const {
  KvPlan plan = *this;
  plan.exact = {};
  plan.n_pages = n_seqs * exact.slots();
  for (KvLayer& layer : plan.layers) {
    layer.k = layer.exact_k;
    layer.v = layer.exact_v;
  }
  return plan;
}

}  // namespace engine
