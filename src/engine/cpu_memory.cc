#include "src/engine/cpu_memory.h"

#include <algorithm>

namespace engine {

namespace {

Partial take_partial(Carver& carver, uint64_t queries, uint64_t dim_v) {
  Partial partial;
  partial.max = carver.take<float>(queries);
  partial.sum = carver.take<float>(queries);
  partial.acc = carver.take<float>(queries * dim_v);
  return partial;
}

ExpertSpace take_experts(Carver& carver, uint64_t rows, const HParams& hp) {
  const auto n_expert = static_cast<uint64_t>(hp.n_expert);
  const uint64_t slots = rows * static_cast<uint64_t>(hp.n_expert_used);
  ExpertSpace space;
  space.logits = carver.take<float>(rows * n_expert);
  space.chosen = carver.take<int>(slots);
  space.weight = carver.take<float>(slots);
  space.slot = carver.take<int>(slots);
  space.row_of = carver.take<int>(slots);
  space.begin = carver.take<int>(n_expert + 1);
  space.by_size = carver.take<int>(n_expert);
  space.n_active = carver.take<int>(1);
  space.x = carver.take<float>(slots * static_cast<uint64_t>(hp.n_embd));
  return space;
}

// Which groups the model's weights take.
struct DotGroups {
  bool by_32 = false, by_256 = false;
};
DotGroups groups_of(const Model& model) {
  DotGroups groups;
  const auto add = [&groups](const kernels::Matrix& w) {
    const int group = w.format == nullptr ? 0 : kernels::dot_group(*w.format);
    groups.by_32 = groups.by_32 || group == 32;
    groups.by_256 = groups.by_256 || group == 256;
  };
  add(model.output);
  for (const LayerWeights& w : model.layers) {
    for (const kernels::Matrix* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down, &w.router,
                                          &w.gate_exps.first, &w.up_exps.first, &w.down_exps.first}) {
      add(*matrix);
    }
  }
  return groups;
}

DotSpace take_dots(Carver& carver, DotGroups groups, uint64_t blocks) {
  DotSpace space;
  space.by_32 = groups.by_32 ? carver.take<kernels::DotBlock>(blocks) : nullptr;
  space.by_256 = groups.by_256 ? carver.take<kernels::DotBlock>(blocks) : nullptr;
  return space;
}

}  // namespace

Workspace Workspace::lay_out(const Model& model, const KvPlan& kv, const BackendOptions& options,
                             std::byte* base, uint64_t& bytes) {
  const HParams& hp = model.hp;
  const auto rows = static_cast<uint64_t>(options.n_ubatch);
  const auto n_embd = static_cast<uint64_t>(hp.n_embd), n_ff = static_cast<uint64_t>(hp.n_ff);
  const auto head_dim = static_cast<uint64_t>(hp.head_dim);
  const auto group = static_cast<uint64_t>(hp.n_head / hp.n_head_kv);
  const uint64_t q_width = static_cast<uint64_t>(hp.n_head) * head_dim;
  const uint64_t kv_width = static_cast<uint64_t>(hp.n_head_kv) * head_dim;
  const int n_threads = std::max(options.n_threads, options.n_threads_batch);
  Carver carver(base);
  Workspace space;
  space.act.x = carver.take<float>(rows * n_embd);
  space.act.q = carver.take<float>(rows * q_width);
  space.act.a = carver.take<float>(rows * q_width);
  space.act.k = carver.take<float>(rows * kv_width);
  space.act.v = carver.take<float>(rows * kv_width);
  const uint64_t ffn_rows = hp.n_expert > 0 ? rows * static_cast<uint64_t>(hp.n_expert_used) : rows;
  space.act.gate = carver.take<float>(ffn_rows * n_ff);
  space.act.up = carver.take<float>(ffn_rows * n_ff);
  if (hp.n_expert > 0) {
    space.experts = take_experts(carver, rows, hp);
  }
  const DotGroups groups = options.quantized_activations ? groups_of(model) : DotGroups{};
  const auto blocks_of = [](uint64_t n) {
    return static_cast<uint64_t>(kernels::dot_blocks(static_cast<int64_t>(n)));
  };
  const uint64_t ff_blocks = blocks_of(n_ff), in_blocks = blocks_of(std::max(n_embd, q_width));
  const uint64_t n_used = std::max<uint64_t>(1, static_cast<uint64_t>(hp.n_expert_used));
  space.dots = take_dots(carver, groups,
                         std::max(ffn_rows * std::max(ff_blocks, blocks_of(n_embd)), rows * in_blocks));
  space.cos_sin = carver.take<float>(rows * static_cast<uint64_t>(hp.n_rot));
  const uint64_t queries = static_cast<uint64_t>(block_rows(static_cast<int>(group))) * group;
  for (int i = 0; i < n_threads; ++i) {
    ThreadScratch thread;
    thread.norm = carver.take<float>(n_embd);
    thread.dots = take_dots(carver, groups, std::max(n_used * ff_blocks, in_blocks));
    thread.query = carver.take<float>(queries * head_dim);
    thread.scores = carver.take<float>(queries * kChunkTokens);
    thread.visible = carver.take<int>(queries);
    thread.chunk = take_partial(carver, queries, head_dim);
    thread.total = take_partial(carver, queries, head_dim);
    thread.expert_logits = carver.take<float>(static_cast<uint64_t>(hp.n_expert));
    thread.chosen = carver.take<int>(static_cast<uint64_t>(hp.n_expert_used));
    thread.expert_weight = carver.take<float>(static_cast<uint64_t>(hp.n_expert_used));
    space.threads.push_back(thread);
  }
  const int64_t tokens = int64_t{kv.seq_pages} * kv.page_tokens;
  space.split_stride = static_cast<int64_t>(group * (head_dim + 2));
  space.split_slots = n_threads == 1 ? 0 : 2 * n_threads * ((tokens + kChunkTokens - 1) / kChunkTokens);
  space.split = carver.take<float>(static_cast<uint64_t>(space.split_slots * space.split_stride));
  space.exact = carver.take<std::byte>(ExactArena::step_bytes(kv));
  bytes = carver.used();
  return space;
}

}  // namespace engine
