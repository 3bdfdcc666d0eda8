#pragma once
// THE forward pass: one walker for every backend. Ops computes; the walker says what, in which order. Rows
// are the tokens of the step.

#include <initializer_list>

#include "kernels/ops.h"
#include "src/engine/backend.h"
#include "src/engine/model.h"

namespace engine {

// Activations of a step, wherever the backend keeps them (device pointers on a GPU).
struct Activations {
  float* h = nullptr;                    // (rows, n_embd): the residual stream
  float* x = nullptr;                    // (rows, n_embd): normalised input of a block, then its output
  float *q = nullptr, *a = nullptr;      // (rows, n_head*head_dim)
  float *k = nullptr, *v = nullptr;      // (rows, n_head_kv*head_dim)
  float *gate = nullptr, *up = nullptr;  // (rows, n_ff)
};

// y (rows, w.rows) = x * w^T
struct Product {
  const kernels::Matrix* w;
  float* y;
};

// Ops:
//   activations() -> const Activations&
//   embed(table, y)                     y row = table row of the row's token
//   norm(x, weight, y)                  RMS norm of every row
//   norm_logit_rows(x, weight, y)       of the rows whose logits are wanted, packed
//   linear(x, n_rows, {products})       all products of one input, as one pass
//   linear_add(x, w, tmp, y)            y += x * w^T, over every row; tmp as large as y
//   rope(q, k)                          rotates every head of both in place
//   kv_write(layer, k, v)               stores the rows before attention reads them back
//   attention(layer, q, a)              causal, over the cache
//   swiglu(gate, up)                    gate = silu(gate) * up
//   n_rows(), n_logit_rows(), logits()

template <class Ops>
void embed_part(Ops& ops, const Model& model) {
  ops.embed(model.token_embd, ops.activations().h);
}

template <class Ops>
void attn_part(Ops& ops, const Model& model, int layer) {
  const LayerWeights& w = model.layers[static_cast<size_t>(layer)];
  const Activations& b = ops.activations();
  ops.norm(b.h, w.attn_norm, b.x);
  ops.linear(b.x, ops.n_rows(), {Product{&w.q, b.q}, Product{&w.k, b.k}, Product{&w.v, b.v}});
  ops.rope(b.q, b.k);
  ops.kv_write(layer, b.k, b.v);
  ops.attention(layer, b.q, b.a);
  ops.linear_add(b.a, w.o, b.x, b.h);
}

template <class Ops>
void ffn_part(Ops& ops, const Model& model, int layer) {
  const LayerWeights& w = model.layers[static_cast<size_t>(layer)];
  const Activations& b = ops.activations();
  ops.norm(b.h, w.ffn_norm, b.x);
  ops.linear(b.x, ops.n_rows(), {Product{&w.gate, b.gate}, Product{&w.up, b.up}});
  ops.swiglu(b.gate, b.up);
  ops.linear_add(b.gate, w.down, b.x, b.h);
}

template <class Ops>
void head_part(Ops& ops, const Model& model) {
  if (ops.n_logit_rows() == 0) {
    return;
  }
  const Activations& b = ops.activations();
  ops.norm_logit_rows(b.h, model.output_norm, b.x);
  ops.linear(b.x, ops.n_logit_rows(), {Product{&model.output, ops.logits()}});
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
