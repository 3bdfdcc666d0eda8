#pragma once
// THE forward pass: one walker for every backend. Ops computes; the walker says what, in which order. Rows
// are the tokens of the step.

#include <initializer_list>

#include "kernels/dots.h"
#include "kernels/ops.h"
#include "kernels/route.h"
#include "src/engine/backend.h"
#include "src/engine/model.h"

namespace engine {

// Activations of a step, wherever the backend keeps them (device pointers on a GPU).
struct Activations {
  float* h = nullptr;                    // (rows, n_embd): the residual stream
  float* x = nullptr;                    // (rows, n_embd): normalised input of a block, then its output
  float *q = nullptr, *a = nullptr;      // (rows, n_head*head_dim): queries, rotated queries, then attention
  float *k = nullptr, *v = nullptr;      // (rows, n_head_kv*head_dim)
  float *gate = nullptr, *up = nullptr;  // (rows, n_ff); with experts (rows * n_expert_used, n_ff)
};

// Activations rounded to int8, for the products of a step (kernels/dots.h): in groups of 32 and of 256, each where the
// model has weights that take them so, else nullptr.
struct DotSpace {
  kernels::DotBlock *by_32 = nullptr, *by_256 = nullptr;
};

// y (rows, w.rows) = x * w^T + bias
struct Product {
  const kernels::Matrix* w;
  float* y;
  const float* bias = nullptr;
};

inline kernels::Router router_of(const HParams& hp, const LayerWeights& w) {
  return {.gating = hp.gating,
          .n_expert = hp.n_expert,
          .n_used = hp.n_expert_used,
          .bias = w.router_bias,
          .normalize = true,
          .scale = hp.expert_scale};
}

// Ops; each ends when its results are there for the next:
//   activations() -> const Activations&
//   embed(table, y)                             y row = table row of the row's token
//   norm_linear(h, weight, x, {products})       products of the RMS norm of every row; x is room for the norms
//   rotate_and_store(layer, q, k, v, out)       norm, where the layer has one, and RoPE of every head of q and
//                                               k; the queries into out, k and v into the cache
//   attention(layer, q, a)                      causal; reads the step's own rows back from the cache
//   linear_add(x, w, tmp, y)                    y += x * w^T; tmp is as large as y
//   norm_swiglu(h, weight, x, w_gate, w_up, gate, up)   gate = silu(norm * w_gate^T) * (norm * w_up^T)
//   experts(h, layer weights, x)                h += the mix of each row's chosen experts on its norm
//   head(h, weight, x, output)                  logits of the rows that want them

template <class Ops>
void embed_part(Ops& ops, const Model& model) {
  ops.embed(model.token_embd, ops.activations().h);
}

template <class Ops>
void attn_part(Ops& ops, const Model& model, int layer) {
  const LayerWeights& w = model.layers[static_cast<size_t>(layer)];
  const Activations& b = ops.activations();
  ops.norm_linear(b.h, w.attn_norm, b.x,
                  {Product{&w.q, b.q, w.q_bias}, Product{&w.k, b.k, w.k_bias}, Product{&w.v, b.v, w.v_bias}});
  ops.rotate_and_store(layer, b.q, b.k, b.v, b.a);
  ops.attention(layer, b.a, b.q);
  ops.linear_add(b.q, w.o, b.x, b.h);
}

template <class Ops>
void ffn_part(Ops& ops, const Model& model, int layer) {
  const LayerWeights& w = model.layers[static_cast<size_t>(layer)];
  const Activations& b = ops.activations();
  if (model.hp.n_expert > 0) {
    ops.experts(b.h, w, b.x);
    return;
  }
  ops.norm_swiglu(b.h, w.ffn_norm, b.x, w.gate, w.up, b.gate, b.up);
  ops.linear_add(b.gate, w.down, b.x, b.h);
}

template <class Ops>
void head_part(Ops& ops, const Model& model) {
  const Activations& b = ops.activations();
  ops.head(b.h, model.output_norm, b.x, model.output);
}

template <class Ops>
void walk(Ops& ops, const Model& model, const Segment& segment) {
  const int n_layer = model.hp.n_layer;
  for (int i = segment.first.order(n_layer); i <= segment.last.order(n_layer); ++i) {
    const PartId id = PartId::at(i, n_layer);
    switch (id.part) {
      case Part::kEmbed:
        embed_part(ops, model);
        break;
      case Part::kAttn:
        attn_part(ops, model, id.layer);
        break;
      case Part::kFfn:
        ffn_part(ops, model, id.layer);
        break;
      case Part::kHead:
        head_part(ops, model);
        break;
    }
  }
}

}  // namespace engine
