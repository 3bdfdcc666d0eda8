#include "src/engine/cuda_ops.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/mat_vec.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.h"
#include "src/engine/kv_means.h"

namespace engine {

namespace cuda = kernels::cuda;

namespace {

constexpr uint32_t kF32 = 0;  // the ggml type

}  // namespace

// ---- Products ----

const kernels::DotBlock* CudaOps::rounded(Input& input, int group) {
  kernels::DotBlock* to = group == 32 ? run_.space.dots.by_32 : run_.space.dots.by_256;
  bool& made = group == 32 ? input.by_32 : input.by_256;
  if (!made) {
    note(cuda::quantize_dots(run_.stream, input.rows, input.x, input.up, static_cast<int>(input.cols), group,
                             to));
    made = true;
  }
  return to;
}

void CudaOps::multiply(Input& input, const Product& product) {
  const bool few = input.rows.most <= kFewRows && run_.quantized_activations;
  few ? multiply_rows(input, input.rows, product, {}) : multiply_tiles(input, input.rows, product, {});
}

void CudaOps::multiply_tiles(Input& input, Rows rows, const Product& product, const ExpertChoice& choice) {
  const kernels::Matrix& w = *product.w;
  if (!std::exchange(input.halves, true)) {
    note(cuda::to_halves(run_.stream, input.rows, input.x, input.up, static_cast<int>(input.cols),
                         run_.space.halves));
  }
  cuda::Gemm gemm;
  gemm.ggml_type = w.format->ggml_type;
  gemm.data = w.data;
  gemm.n_rows = w.rows;
  gemm.cols = w.cols;
  gemm.row_bytes = w.row_bytes;
  gemm.groups = choice.chosen == nullptr ? nullptr : run_.space.experts.groups;
  gemm.n_expert = choice.chosen == nullptr ? 0 : run_.model.hp.n_expert;
  gemm.expert_bytes = choice.bytes;
  gemm.rows_per_x = choice.rows_per_x;
  gemm.x = run_.space.halves;
  gemm.bias = product.bias;
  gemm.y = product.y;
  if (ok()) {
    note(cuda::gemm(run_.stream, rows, gemm));
  }
}

void CudaOps::multiply_rows(Input& input, Rows rows, const Product& product, const ExpertChoice& choice) {
  const kernels::Matrix& w = *product.w;
  cuda::MatVec mat_vec;
  mat_vec.ggml_type = w.format->ggml_type;
  mat_vec.data = w.data;
  mat_vec.n_rows = w.rows;
  mat_vec.cols = w.cols;
  mat_vec.row_bytes = w.row_bytes;
  mat_vec.expert = choice.chosen;
  mat_vec.expert_bytes = choice.bytes;
  mat_vec.rows_per_x = choice.rows_per_x;
  mat_vec.bias = product.bias;
  mat_vec.y = product.y;
  if (cuda::has_dots(mat_vec.ggml_type)) {
    mat_vec.x = rounded(input, kernels::dot_group(*w.format));
  } else {
    if (const float* up = std::exchange(input.up, nullptr)) {
      note(cuda::swiglu(run_.stream, input.rows, input.x, up, static_cast<int>(input.cols)));
    }
    mat_vec.x_floats = input.x;
  }
  if (ok()) {
    note(cuda::mat_vec(run_.stream, rows, mat_vec));
  }
}

// ---- The residual stream ----

void CudaOps::normalise(const float* weight, float* x) {
  const HParams& hp = run_.model.hp;
  if (ok()) {
    note(cuda::add_norm(run_.stream, run_.rows, run_.space.act.h, std::exchange(pending_, nullptr), weight,
                        hp.n_embd, hp.rms_eps, x));
  }
}

void CudaOps::add_pending() {
  if (const float* x = std::exchange(pending_, nullptr); x != nullptr && ok()) {
    note(cuda::mix(run_.stream, run_.rows, x, run_.space.ones, 1, run_.model.hp.n_embd, run_.space.act.h));
  }
}

base::Result<void> CudaOps::finish() {
  add_pending();
  return status_;
}

void CudaOps::embed(const kernels::Matrix& table, float* y) {
  note(cuda::embed(run_.stream, run_.rows, table.format->ggml_type, table.data, table.row_bytes,
                   run_.space.in.token, static_cast<int>(table.cols), y));
}

void CudaOps::norm_linear(const float* /*h*/, const float* weight, float* x,
                          std::initializer_list<Product> products) {
  normalise(weight, x);
  Input input{.x = x, .cols = run_.model.hp.n_embd, .rows = run_.rows};
  for (const Product& product : products) {
    multiply(input, product);
  }
}

void CudaOps::linear_add(const float* x, const kernels::Matrix& w, float* tmp, const float* /*y*/) {
  const Activations& act = run_.space.act;
  Input input{.x = x == act.gate ? act.gate : act.q,
              .up = std::exchange(up_, nullptr),
              .cols = w.cols,
              .rows = run_.rows};
  AR_CHECK(x == input.x, "an input the walker does not have");
  multiply(input, {&w, tmp});
  pending_ = tmp;
}

void CudaOps::norm_swiglu(const float* /*h*/, const float* weight, float* x, const kernels::Matrix& w_gate,
                          const kernels::Matrix& w_up, float* gate, float* up) {
  normalise(weight, x);
  Input input{.x = x, .cols = w_gate.cols, .rows = run_.rows};
  multiply(input, {&w_gate, gate});
  multiply(input, {&w_up, up});
  up_ = up;  // the next product takes them together
}

void CudaOps::experts(float* h, const LayerWeights& w, float* x) {
  const HParams& hp = run_.model.hp;
  const CudaExperts& space = run_.space.experts;
  const kernels::Router router = router_of(hp, w);
  normalise(w.ffn_norm, x);
  Input input{.x = x, .cols = hp.n_embd, .rows = run_.rows};
  // Not as float16, in any number of rows: what is chosen hangs on small differences.
  multiply_rows(input, run_.rows, {&w.router, space.logits}, {});
  int* chosen = space.chosen + (&w - run_.model.layers.data()) * run_.slots.most;
  if (ok()) {
    note(cuda::route(run_.stream, run_.rows, router, space.logits, chosen, space.weight));
  }
  const Activations& act = run_.space.act;
  // Many rows: an expert's are brought together, so that its weights are read once for all of them.
  const bool many = run_.rows.most > kFewRows;
  if (many && ok()) {
    note(cuda::group_rows(run_.stream, run_.slots, chosen, hp.n_expert, space.groups));
  }
  const auto product = [&](Input& of, const Experts& experts, int rows_per_x, float* y) {
    const ExpertChoice choice{chosen, experts.bytes, rows_per_x};
    many ? multiply_tiles(of, run_.slots, {&experts.first, y}, choice)
         : multiply_rows(of, run_.slots, {&experts.first, y}, choice);
  };
  product(input, w.gate_exps, hp.n_expert_used, act.gate);
  product(input, w.up_exps, hp.n_expert_used, act.up);
  Input inner{.x = act.gate, .up = act.up, .cols = hp.n_ff, .rows = run_.slots};
  product(inner, w.down_exps, 1, space.x);
  if (ok()) {
    note(cuda::mix(run_.stream, run_.rows, space.x, space.weight, hp.n_expert_used, hp.n_embd, h));
  }
}

// Rows in blocks that there is room for. Where the host wants them at once there may be many blocks; a graph has one.
void CudaOps::head(const float* h, const float* weight, const float* /*x*/, const kernels::Matrix& output) {
  const HParams& hp = run_.model.hp;
  const CudaSpace& space = run_.space;
  const size_t row_bytes = static_cast<size_t>(hp.n_embd) * sizeof(float);
  add_pending();
  for (int first = 0; first < run_.logit_rows.most && ok(); first += kHeadRows) {
    const int n = std::min(kHeadRows, run_.logit_rows.most - first);
    const Rows rows{n, run_.logits == nullptr ? run_.logit_rows.used : nullptr};
    note(cuda::embed(run_.stream, rows, kF32, h, row_bytes, space.in.logit_row + first, hp.n_embd,
                     space.head_x));
    if (ok()) {
      note(cuda::add_norm(run_.stream, rows, space.head_x, nullptr, weight, hp.n_embd, hp.rms_eps,
                          space.head_x));
    }
    Input input{.x = space.head_x, .cols = hp.n_embd, .rows = rows};
    multiply(input, {&output, space.logits});
    if (ok() && run_.logits != nullptr) {
      const auto width = static_cast<size_t>(hp.n_vocab);
      note(cuda::copy(run_.stream, run_.logits + static_cast<size_t>(first) * width, space.logits,
                      static_cast<size_t>(n) * width * sizeof(float), cuda::Direction::kToHost));
    }
  }
}

// ---- Attention ----

cuda::KvSide CudaOps::side(int layer, bool keys) const {
  const KvLayer& kv = run_.kv.layers[static_cast<size_t>(layer)];
  const kernels::KvFormat *format = keys ? kv.k : kv.v, *exact = keys ? kv.exact_k : kv.exact_v;
  const int dim = keys ? kv.dim_k : kv.dim_v;
  const auto pages = [&](const KvArena& arena, const kernels::KvFormat& of) {
    return cuda::KvPages{*cuda::kv_type(of, dim), keys ? arena.k(layer, 0, 0) : arena.v(layer, 0, 0),
                         static_cast<int64_t>(arena.page(layer, 0).size()),
                         static_cast<int64_t>(of.page_bytes(dim))};
  };
  cuda::KvSide side;
  side.pages = pages(run_.arena, *format);
  side.dim = dim;
  side.rotate = keys ? kv.rotate_k : kv.rotate_v;
  if (const float* mean = keys ? kv.k_mean : kv.v_mean) {
    side.mean = run_.space.means + (mean - run_.kv.means->values.data());
  }
  if (exact != nullptr && run_.kv.exact.slots() > 0) {
    side.exact = pages(run_.copies, *exact);
  }
  return side;
}

void CudaOps::rotate_and_store(int layer, float* q, float* k, const float* v, const float* out) {
  AR_CHECK(out == q, "queries are turned where they are");
  const HParams& hp = run_.model.hp;
  const LayerWeights& w = run_.model.layers[static_cast<size_t>(layer)];
  const KvLayer& kv = run_.kv.layers[static_cast<size_t>(layer)];
  const StepInputs& in = run_.space.in;
  cuda::HeadTurn turn;
  turn.dim = hp.head_dim;
  turn.n_rot = hp.n_rot;
  turn.norm_all = hp.qk_norm_all;
  turn.neox = hp.rope == RopeKind::kNeox;
  turn.cos_sin = in.cos_sin;
  turn.eps = hp.rms_eps;
  const std::tuple<float*, const float*, int> sides[] = {{q, w.q_norm, hp.n_head},
                                                         {k, w.k_norm, hp.n_head_kv}};
  for (const auto& [x, weight, heads] : sides) {
    turn.x = x;
    turn.weight = weight;
    turn.heads = heads;
    if (ok()) {
      note(cuda::turn_heads(run_.stream, run_.rows, turn));
    }
  }
  cuda::KvWrite write;
  write.k = side(layer, true);
  write.v = side(layer, false);
  write.heads = kv.heads;
  write.k_rows = k;
  write.v_rows = v;
  write.page = in.page;
  write.slot = in.slot;
  write.exact_page = run_.kv.exact.slots() > 0 ? in.copy : nullptr;
  if (ok()) {
    note(cuda::kv_write(run_.stream, run_.rows, write));
  }
}

void CudaOps::attention(int layer, const float* q, float* a) {
  const KvLayer& kv = run_.kv.layers[static_cast<size_t>(layer)];
  const StepInputs& in = run_.space.in;
  AR_CHECK(a != q || kv.dim_k == kv.dim_v,
           "results as wide as queries may lie where these do, and no others");
  const int64_t width = int64_t{kv.heads} * kv.group;
  cuda::Attention attention;
  attention.k = side(layer, true);
  attention.v = side(layer, false);
  attention.heads = kv.heads;
  attention.group = kv.group;
  attention.pages = in.pages;
  attention.exact_pages = run_.kv.exact.slots() > 0 ? in.copies : nullptr;
  attention.seq_pages = run_.kv.seq_pages;
  attention.sink_pages = run_.kv.exact.sink_pages;
  attention.tail = run_.kv.exact.tail;
  attention.partial = run_.space.partial;
  const bool few = run_.rows.most <= kFewRows;
  const bool tiles = !few && kv.dim_k <= cuda::kMostPrefillDim && kv.dim_v <= cuda::kMostPrefillDim;
  // Many rows of larger heads in slices: parts of results take room for every row, head and chunk of context.
  for (int first = 0; first < run_.rows.most && ok(); first += tiles ? run_.rows.most : kFewRows) {
    attention.q = q + first * width * kv.dim_k;
    attention.out = a + first * width * kv.dim_v;
    attention.visible = in.visible + first;
    attention.seq = in.table + first;
    const Rows rows = few || tiles ? run_.rows : Rows{std::min(kFewRows, run_.rows.most - first), nullptr};
    note(tiles ? cuda::attend_prefill(run_.stream, rows, attention)
               : cuda::attend(run_.stream, rows, attention, run_.most_tokens));
  }
  move_copies(layer);
}

void CudaOps::move_copies(int layer) {
  for (const PageCopy& move : run_.moves) {
    const auto from = run_.copies.page(layer, move.from), to = run_.copies.page(layer, move.to);
    if (ok()) {
      note(cuda::copy(run_.stream, to.data(), from.data(), from.size(), cuda::Direction::kWithin));
    }
  }
}

}  // namespace engine
