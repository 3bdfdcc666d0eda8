#include "src/engine/cuda_space.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/mat_vec.h"
#include "src/engine/kv_means.h"

namespace engine {
namespace {

namespace cuda = kernels::cuda;

uint64_t u64(int64_t n) {
  return static_cast<uint64_t>(n);
}

// Everything that is multiplied.
template <class Visit>
void for_matrices(const Model& model, Visit visit) {
  visit(model.output, "output");
  for (const LayerWeights& w : model.layers) {
    const std::pair<const kernels::Matrix*, const char*> all[] = {{&w.q, "attn_q"},
                                                                  {&w.k, "attn_k"},
                                                                  {&w.v, "attn_v"},
                                                                  {&w.o, "attn_output"},
                                                                  {&w.gate, "ffn_gate"},
                                                                  {&w.up, "ffn_up"},
                                                                  {&w.down, "ffn_down"},
                                                                  {&w.router, "ffn_gate_inp"},
                                                                  {&w.gate_exps.first, "ffn_gate_exps"},
                                                                  {&w.up_exps.first, "ffn_up_exps"},
                                                                  {&w.down_exps.first, "ffn_down_exps"}};
    for (const auto& [matrix, name] : all) {
      if (matrix->format != nullptr) {
        visit(*matrix, name);
      }
    }
  }
}

base::Error no_kernel(const std::string& where, const std::string& what) {
  return base::error(where, what, "compute on the CPU: --n-gpu-layers 0");
}

}  // namespace

KvPlan device_copies(const KvPlan& kv) {
  KvPlan plan = kv.copies();
  if (plan.n_pages > 0) {
    plan.n_pages += kv.exact.step_pages;
  }
  return plan;
}

StepInputs StepInputs::lay_out(const Model& model, const KvPlan& kv, int n_ubatch, Carver& carver) {
  const uint64_t rows = u64(n_ubatch), n_tables = u64(kv.n_seqs);
  StepInputs in;
  const uint64_t before = carver.used();
  in.used = carver.take<int>(3);
  for (int** array : {&in.token, &in.page, &in.slot, &in.copy, &in.visible, &in.table, &in.logit_row}) {
    *array = carver.take<int>(rows);
  }
  in.head_bytes = carver.used() - before;
  in.cos_sin = carver.take<float>(rows * u64(model.hp.n_rot));
  in.pages = carver.take<int>(n_tables * u64(kv.seq_pages));
  in.copies = carver.take<int>(kv.exact.slots() > 0 ? n_tables * u64(kv.seq_pages) : 0);
  return in;
}

CudaSpace CudaSpace::lay_out(const Model& model, const KvPlan& kv, const BackendOptions& options,
                             std::byte* base, uint64_t& bytes) {
  const HParams& hp = model.hp;
  const int n_ubatch = options.n_ubatch;
  const uint64_t rows = u64(n_ubatch), few = u64(std::min(n_ubatch, kFewRows));
  const uint64_t embd = u64(hp.n_embd), ff = u64(hp.n_ff);
  const uint64_t q_width = u64(int64_t{hp.n_head} * hp.head_dim),
                 kv_width = u64(int64_t{hp.n_head_kv} * hp.head_dim);
  const bool moe = hp.n_expert > 0;
  const uint64_t slots = moe ? rows * u64(hp.n_expert_used) : 0, ffn_rows = moe ? slots : rows;
  Carver carver(base);
  CudaSpace space;
  space.in = StepInputs::lay_out(model, kv, n_ubatch, carver);
  space.act.h = carver.take<float>(rows * embd);
  space.act.x = carver.take<float>(rows * embd);
  space.act.q = carver.take<float>(rows * q_width);
  space.act.a = space.act.q;  // queries are turned where they are, and attention gives back as many values
  space.act.k = carver.take<float>(rows * kv_width);
  space.act.v = carver.take<float>(rows * kv_width);
  space.act.gate = carver.take<float>(ffn_rows * ff);
  space.act.up = carver.take<float>(ffn_rows * ff);
  space.ones = carver.take<float>(rows);
  bool by_32 = false, by_256 = false;
  for_matrices(model, [&](const kernels::Matrix& w, const char*) {
    by_32 = by_32 || kernels::dot_group(*w.format) == 32;
    by_256 = by_256 || kernels::dot_group(*w.format) == 256;
  });
  const auto blocks = [](uint64_t n) { return u64(kernels::dot_blocks(static_cast<int64_t>(n))); };
  uint64_t n_dots = few * blocks(std::max({embd, q_width, moe ? 0 : ff}));
  if (moe) {  // routers have all rows in them
    n_dots = std::max({n_dots, rows * blocks(embd), few * u64(hp.n_expert_used) * blocks(ff)});
  }
  space.dots.by_32 = by_32 ? carver.take<kernels::DotBlock>(n_dots) : nullptr;
  space.dots.by_256 = by_256 ? carver.take<kernels::DotBlock>(n_dots) : nullptr;
  space.halves = carver.take<uint16_t>(std::max(rows * std::max(embd, q_width), ffn_rows * ff));
  if (moe) {
    space.experts.logits = carver.take<float>(rows * u64(hp.n_expert));
    space.experts.weight = carver.take<float>(slots);
    space.experts.chosen = carver.take<int>(u64(hp.n_layer) * slots);
    space.experts.groups = carver.take<int>(cuda::group_ints(static_cast<int>(slots), hp.n_expert));
    space.experts.x = carver.take<float>(slots * embd);
  }
  space.partial =
      carver.take<float>(cuda::partial_floats(static_cast<int>(few), hp.n_head_kv, hp.n_head / hp.n_head_kv,
                                              hp.head_dim, kv.seq_pages * kv.page_tokens));
  const uint64_t heads = std::min<uint64_t>(rows, kHeadRows);
  space.head_x = carver.take<float>(heads * embd);
  space.logits = carver.take<float>(heads * u64(hp.n_vocab));
  space.means = kv.means == nullptr ? nullptr : carver.take<float>(kv.means->values.size());
  bytes = carver.used();
  return space;
}

namespace {

base::Result<void> check_matrix(const kernels::Matrix& w, const std::string& name) {
  if (!cuda::has_dots(w.format->ggml_type) && !cuda::has_floats(w.format->ggml_type)) {
    return no_kernel(name, fmt::format("the GPU has no kernel for weights of type {}", w.format->name));
  }
  if (w.cols % 32 != 0) {
    return no_kernel(
        name, fmt::format("rows of {} values are no multiple of 32, which the GPU's kernels need", w.cols));
  }
  return {};
}

base::Result<void> check_cache(const KvLayer& kv, int layer) {
  const std::pair<const kernels::KvFormat*, int> sides[] = {
      {kv.k, kv.dim_k}, {kv.v, kv.dim_v}, {kv.exact_k, kv.dim_k}, {kv.exact_v, kv.dim_v}};
  for (const auto& [format, dim] : sides) {
    if (format != nullptr && !cuda::kv_type(*format, dim)) {
      return base::error(
          fmt::format("KV cache of layer {}", layer),
          fmt::format("the GPU has no kernel for {} with heads of {} values", format->name, dim),
          "use another --cache-type-k and --cache-type-v (f16, q8_0, tbq4_0, tbq3_0), or --n-gpu-layers 0");
    }
  }
  return {};
}

}  // namespace

base::Result<void> check_kernels(const Model& model, const Segment& parts, const KvPlan& kv,
                                 const BackendOptions& options) {
  constexpr int kMostGrid = 65535, kMostExperts = 1024, kMostUsed = 32;  // route.cu's
  const HParams& hp = model.hp;
  const std::string where = "model";
  if (hp.n_embd % 32 != 0 || hp.n_ff % 32 != 0 || int64_t{hp.n_head} * hp.head_dim % 32 != 0) {
    return no_kernel(
        where, fmt::format("widths of {}, {} and {} are no multiples of 32, which the GPU's kernels need",
                           hp.n_embd, hp.n_ff, int64_t{hp.n_head} * hp.head_dim));
  }
  if (hp.n_expert > kMostExperts || hp.n_expert_used > kMostUsed) {
    return no_kernel(where, fmt::format("{} experts, {} at a time: the GPU has room for {} and {}",
                                        hp.n_expert, hp.n_expert_used, kMostExperts, kMostUsed));
  }
  const int slots = std::max(1, hp.n_expert_used);
  if (options.n_ubatch > kMostGrid / slots) {
    return base::error("--ubatch-size",
                       fmt::format("{} is more than the GPU computes together", options.n_ubatch),
                       fmt::format("use {} or less", kMostGrid / slots));
  }
  for (int i = parts.first.order(hp.n_layer); i <= parts.last.order(hp.n_layer); ++i) {
    const PartId id = PartId::at(i, hp.n_layer);
    base::Result<void> fine;
    const auto check = [&](const kernels::Matrix& w, const char* name) {
      if (fine.ok()) {
        fine = check_matrix(w, id.part == Part::kEmbed || id.part == Part::kHead
                                   ? std::string(name)
                                   : fmt::format("blk.{}.{}", id.layer, name));
      }
    };
    if (id.part == Part::kEmbed) {
      check(model.token_embd, "token_embd");
    } else if (id.part == Part::kHead) {
      check(model.output, "output");
    } else {
      const LayerWeights& w = model.layers[static_cast<size_t>(id.layer)];
      if (id.part == Part::kAttn) {
        check(w.q, "attn_q");
        check(w.k, "attn_k");
        check(w.v, "attn_v");
        check(w.o, "attn_output");
        fine = fine.ok() ? check_cache(kv.layers[static_cast<size_t>(id.layer)], id.layer) : fine;
      } else if (hp.n_expert == 0) {
        check(w.gate, "ffn_gate");
        check(w.up, "ffn_up");
        check(w.down, "ffn_down");
      } else {
        check(w.router, "ffn_gate_inp");
        check(w.gate_exps.first, "ffn_gate_exps");
        check(w.up_exps.first, "ffn_up_exps");
        check(w.down_exps.first, "ffn_down_exps");
      }
    }
    if (!fine) {
      return fine;
    }
  }
  return {};
}

}  // namespace engine
