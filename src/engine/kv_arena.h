#pragma once
// Addresses in a KV cache, for every backend: base pointers are the host's or a device's.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/error.h"
#include "src/engine/backend.h"

namespace engine {

// The KV arena: for each layer of the session's attention parts, each page: all heads' K, then all heads' V.
class KvArena {
 public:
  KvArena() = default;
  // base may be nullptr, to know bytes() alone. Layers outside [first_layer, last_layer] have no memory.
  KvArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* base);

  uint64_t bytes() const { return bytes_; }
  bool has(int layer) const { return layers_[static_cast<size_t>(layer)].base != nullptr; }
  int n_layers() const { return static_cast<int>(layers_.size()); }
  std::byte* k(int layer, int page, int head) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return at.base + static_cast<size_t>(page) * at.page_bytes + static_cast<size_t>(head) * at.k_bytes;
  }
  std::byte* v(int layer, int page, int head) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return at.base + static_cast<size_t>(page) * at.page_bytes + at.v_offset +
           static_cast<size_t>(head) * at.v_bytes;
  }
  // All of a page in one layer.
  std::span<std::byte> page(int layer, int page) const {
    const Layer& at = layers_[static_cast<size_t>(layer)];
    return {at.base + static_cast<size_t>(page) * at.page_bytes, at.page_bytes};
  }
  // The same, where the caller may ask for what is not here, or has room for another number of bytes.
  base::Result<std::span<std::byte>> checked_page(int layer, int page, size_t bytes) const;

 private:
  struct Layer {
    std::byte* base = nullptr;
    size_t page_bytes = 0, k_bytes = 0, v_bytes = 0, v_offset = 0;
  };
  std::vector<Layer> layers_;
  int n_pages_ = 0;
  uint64_t bytes_ = 0;
};

// The copies of sinks and tails in f16 (exact_pages.h): those that stay, and the running step's new pages, which all
// layers use in turn.
class ExactArena {
 public:
  ExactArena() = default;
  // kept: bytes() of them, and step: Workspace::exact; nullptr as KvArena's.
  ExactArena(const KvPlan& plan, int first_layer, int last_layer, std::byte* kept, std::byte* step);

  // Bytes that `step` needs, and bytes of `kept`.
  static uint64_t step_bytes(const KvPlan& plan);
  uint64_t bytes() const { return kept_.bytes(); }
  const KvArena& kept() const { return kept_; }
  const ExactPlan& plan() const { return plan_; }
  // A page of a sequence that has or gets a copy.
  std::byte* k(int layer, const SeqRows& seq, int page, int head) const {
    return stays(seq, page) ? kept_.k(layer, plan_.slot(seq.seq, page), head)
                            : step_.k(0, step_page(seq, page), head);
  }
  std::byte* v(int layer, const SeqRows& seq, int page, int head) const {
    return stays(seq, page) ? kept_.v(layer, plan_.slot(seq.seq, page), head)
                            : step_.v(0, step_page(seq, page), head);
  }
  // Where a page of the step will stay.
  std::byte* kept_k(int layer, const SeqRows& seq, int page, int head) const {
    return kept_.k(layer, plan_.slot(seq.seq, page), head);
  }
  std::byte* kept_v(int layer, const SeqRows& seq, int page, int head) const {
    return kept_.v(layer, plan_.slot(seq.seq, page), head);
  }

 private:
  static bool stays(const SeqRows& seq, int page) { return page <= seq.exact.stays; }
  static int step_page(const SeqRows& seq, int page) { return seq.exact.step0 + page - seq.exact.stays - 1; }

  ExactPlan plan_;
  KvArena kept_, step_;
};

}  // namespace engine
