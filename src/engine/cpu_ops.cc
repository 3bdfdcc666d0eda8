#include "src/engine/cpu_ops.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

namespace engine {
namespace {

// Rows of x that stay in the L2 cache while a chunk of weight rows passes over them.
constexpr int kTileTokens = 64;

int chunks_of(int tokens) {
  return (tokens + kChunkTokens - 1) / kChunkTokens;
}

}  // namespace

CpuOps::CpuOps(const CpuRegion& region, kernels::Worker& worker)
    : region_(region), worker_(worker), scratch_(region.space.threads[static_cast<size_t>(worker.index())]) {}

void CpuOps::prepare_rope() {
  const int n_rot = region_.model.hp.n_rot;
  worker_.for_chunks(n_rows(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      region_.rope.fill(region_.step.pos[static_cast<size_t>(i)], region_.space.cos_sin + at(i, n_rot));
    }
  });
}

void CpuOps::embed(const kernels::Matrix& table, float* y) {
  worker_.for_chunks(n_rows(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto token = static_cast<size_t>(region_.step.token[static_cast<size_t>(i)]);
      table.format->dequantize_fast(table.data + token * table.row_bytes, table.cols, y + at(i, table.cols));
    }
  });
}

// Norms of n rows of h, row i of them row_of(i). One row is normalised by every worker for itself, which is
// cheaper than meeting.
template <class RowOf>
CpuOps::Normed CpuOps::norm_some(int n, RowOf row_of, const float* h, const float* weight, float* x) {
  const HParams& hp = region_.model.hp;
  if (n == 1) {
    return {scratch_.norm, h + at(row_of(0), hp.n_embd), weight};
  }
  worker_.for_chunks(n, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels::rms_norm(h + at(row_of(i), hp.n_embd), weight, hp.n_embd, hp.rms_eps, x + at(i, hp.n_embd));
    }
  });
  return {x, nullptr, nullptr};
}

CpuOps::Normed CpuOps::norm(const float* h, const float* weight, float* x) {
  return norm_some(n_rows(), std::identity(), h, weight, x);
}

const float* CpuOps::ready(Normed& normed) const {
  if (normed.row != nullptr) {
    const HParams& hp = region_.model.hp;
    kernels::rms_norm(normed.row, normed.weight, hp.n_embd, hp.rms_eps, scratch_.norm);
    normed.row = nullptr;
  }
  return normed.x;
}

DotSpace CpuOps::wanted(const DotSpace& space, Matrices weights) {
  DotSpace chosen;
  for (const kernels::Matrix* w : weights) {
    const int group = kernels::dot_group(*w->format);
    chosen.by_32 = group == 32 ? space.by_32 : chosen.by_32;
    chosen.by_256 = group == 256 ? space.by_256 : chosen.by_256;
  }
  return chosen;
}

void CpuOps::round_row(const float* x, int64_t cols, const DotSpace& to, int64_t row) {
  const int64_t first = row * kernels::dot_blocks(cols);
  if (to.by_32 != nullptr) {
    kernels::quantize_dots(x, cols, 32, to.by_32 + first);
  }
  if (to.by_256 != nullptr) {
    kernels::quantize_dots(x, cols, 256, to.by_256 + first);
  }
}

CpuOps::Input CpuOps::round_together(Normed& rows, int64_t n, int64_t cols, Matrices weights) {
  const DotSpace to = wanted(region_.space.dots, weights);
  if (to.by_32 != nullptr || to.by_256 != nullptr) {
    worker_.for_chunks(n, 4, [&](int64_t begin, int64_t end) {
      const float* x = ready(rows);
      for (int64_t i = begin; i < end; ++i) {
        round_row(x + at(i, cols), cols, to, i);
      }
    });
  }
  return {rows, n, cols, to, false};
}

CpuOps::Input CpuOps::round_alone(Normed& rows, int64_t n, int64_t cols, Matrices weights) const {
  return {rows, n, cols, wanted(scratch_.dots, weights), true};
}

ProductRows CpuOps::ready(Input& input) const {
  const float* x = ready(input.rows);
  if (std::exchange(input.unrounded, false)) {
    for (int64_t i = 0; i < input.n; ++i) {
      round_row(x + at(i, input.cols), input.cols, input.dots, i);
    }
  }
  return {x, input.dots};
}

void CpuOps::multiply(const kernels::Matrix& w, int64_t row0, int64_t row1, const ProductRows& x, int n_rows,
                      float* y) {
  const kernels::DotBlock* dots = x.quantized_for(w);
  const int64_t blocks = kernels::dot_blocks(w.cols);
  for (int first = 0; first < n_rows; first += kTileTokens) {
    const int n = std::min(kTileTokens, n_rows - first);
    float* out = y + at(first, w.rows);
    if (dots != nullptr) {
      kernels::matmul(w, row0, row1, dots + first * blocks, blocks, n, out, w.rows);
    } else {
      kernels::matmul(w, row0, row1, x.x + at(first, w.cols), w.cols, n, out, w.rows);
    }
  }
}

void CpuOps::linear(Normed& normed, int n_rows, std::initializer_list<Product> products) {
  int64_t total = 0;
  std::array<const kernels::Matrix*, 3> weights{};
  size_t n = 0;
  for (const Product& product : products) {
    AR_CHECK(n < weights.size(), "products of one input");
    weights[n++] = product.w;
    total += product.w->rows;
  }
  Input input = round_rows(normed, n_rows, products.begin()->w->cols, std::span(weights.data(), n));
  worker_.for_chunks(total, chunk_rows(total, worker_.count()), [&](int64_t begin, int64_t end) {
    const ProductRows rows = ready(input);
    int64_t first = 0;  // the row of all products where this one's begin
    for (const Product& product : products) {
      const int64_t row0 = std::max<int64_t>(begin - first, 0), row1 = std::min(end - first, product.w->rows);
      if (row0 < row1) {
        multiply(*product.w, row0, row1, rows, n_rows, product.y);
        for (int64_t i = 0; i < n_rows && product.bias != nullptr; ++i) {
          kernels::add(product.y + at(i, product.w->rows) + row0, product.bias + row0,
                       static_cast<int>(row1 - row0));
        }
      }
      first += product.w->rows;
    }
  });
}

void CpuOps::linear_add(const float* x, const kernels::Matrix& w, float* tmp, float* y) {
  const kernels::Matrix* const weights[] = {&w};
  Normed done{x, nullptr, nullptr};
  Input input = round_rows(done, n_rows(), w.cols, weights);
  worker_.for_chunks(w.rows, chunk_rows(w.rows, worker_.count()), [&](int64_t begin, int64_t end) {
    const ProductRows rows = ready(input);
    multiply(w, begin, end, rows, n_rows(), tmp);
    for (int64_t i = 0; i < n_rows(); ++i) {
      kernels::add(y + at(i, w.rows) + begin, tmp + at(i, w.rows) + begin, static_cast<int>(end - begin));
    }
  });
}

void CpuOps::norm_linear(const float* h, const float* weight, float* x,
                         std::initializer_list<Product> products) {
  Normed normed = norm(h, weight, x);
  linear(normed, n_rows(), products);
}

void CpuOps::norm_swiglu(const float* h, const float* weight, float* x, const kernels::Matrix& w_gate,
                         const kernels::Matrix& w_up, float* gate, float* up) {
  Normed normed = norm(h, weight, x);
  const kernels::Matrix* const weights[] = {&w_gate, &w_up};
  Input input = round_rows(normed, n_rows(), w_gate.cols, weights);
  worker_.for_chunks(w_gate.rows, chunk_rows(w_gate.rows, worker_.count()), [&](int64_t begin, int64_t end) {
    const ProductRows rows = ready(input);
    multiply(w_gate, begin, end, rows, n_rows(), gate);
    multiply(w_up, begin, end, rows, n_rows(), up);
    for (int64_t i = 0; i < n_rows(); ++i) {
      const size_t first = at(i, w_gate.rows) + static_cast<size_t>(begin);
      kernels::swiglu(gate + first, up + first, static_cast<int>(end - begin));
    }
  });
}

void CpuOps::head(const float* h, const float* weight, float* x, const kernels::Matrix& output) {
  const std::span<const int> wanted = region_.step.logit_rows;
  if (wanted.empty()) {
    return;
  }
  const int n = static_cast<int>(wanted.size());
  const auto row_of = [&](int64_t i) { return int64_t{wanted[static_cast<size_t>(i)]}; };
  Normed normed = norm_some(n, row_of, h, weight, x);
  linear(normed, n, {Product{&output, region_.logits}});
}

void CpuOps::rotate_and_store(int layer, const float* q, const float* k, const float* v, float* out) {
  const HParams& hp = region_.model.hp;
  const LayerWeights& w = region_.model.layers[static_cast<size_t>(layer)];
  const KvLayer& kv = region_.kv.layers[static_cast<size_t>(layer)];
  const int dim = kv.dim_k;
  const auto rotate = hp.rope == RopeKind::kNorm ? kernels::rope_norm : kernels::rope_neox;
  // A norm over all heads is finished head by head, its scale computed anew by whoever comes to a row: cheaper
  // than meeting for it.
  const auto scale_of_row = [&](const float* x, const float* weight, int row, int heads) {
    const bool all = weight != nullptr && hp.qk_norm_all;
    return all ? kernels::rms_scale(x + at(row, int64_t{heads} * dim), heads * dim, hp.rms_eps) : 0;
  };
  const auto turn = [&](const float* x, const float* weight, float scale, int head, const float* cos_sin,
                        float* y) {
    if (weight == nullptr) {
      std::copy_n(x, dim, y);
    } else if (hp.qk_norm_all) {
      kernels::scale_by(x, scale, weight + at(head, dim), dim, y);
    } else {
      kernels::rms_norm(x, weight, dim, hp.rms_eps, y);
    }
    rotate(y, hp.n_rot, cos_sin);
  };
  // An item is a KV head of a row with its query heads; item i's are query heads i * group and on.
  worker_.for_chunks(int64_t{n_rows()} * kv.heads, n_rows() == 1 ? 1 : 4, [&](int64_t begin, int64_t end) {
    int scaled_row = -1;
    float q_scale = 0, k_scale = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int row = static_cast<int>(i / kv.heads), head = static_cast<int>(i % kv.heads);
      const float* cos_sin = region_.space.cos_sin + at(row, hp.n_rot);
      if (row != scaled_row) {
        q_scale = scale_of_row(q, w.q_norm, row, kv.heads * kv.group);
        k_scale = scale_of_row(k, w.k_norm, row, kv.heads);
        scaled_row = row;
      }
      for (int j = 0; j < kv.group; ++j) {
        const size_t query = at(i * kv.group + j, dim);
        turn(q + query, w.q_norm, q_scale, head * kv.group + j, cos_sin, out + query);
      }
      float *key = scratch_.query, *value = key + dim;  // it has room for more than two
      std::copy_n(v + at(i, kv.dim_v), kv.dim_v, value);
      turn(k + at(i, dim), w.k_norm, k_scale, head, cos_sin, key);
      const auto seq = std::ranges::find_if(region_.step.seqs,
                                            [row](const SeqRows& rows) { return row < rows.row0 + rows.n; });
      const int token = seq->n_past + row - seq->row0;
      const int page = seq->pages[static_cast<size_t>(token / kernels::kPageTokens)];
      const int slot = token % kernels::kPageTokens;
      store_row(kv, head, key, value, region_.arena.k(layer, page, head), region_.arena.v(layer, page, head),
                slot);
      if (const int at_page = token / kernels::kPageTokens; region_.kv.exact.copies(at_page)) {
        store_copy(kv, key, value, region_.exact.k(layer, *seq, at_page, head),
                   region_.exact.v(layer, *seq, at_page, head), slot);
      }
    }
  });
}

// The pages that the step has begun move to where they stay; the older ones there have been read for the last time.
void CpuOps::keep_copies(int layer) {
  const KvLayer& kv = region_.kv.layers[static_cast<size_t>(layer)];
  const ExactPlan& plan = region_.kv.exact;
  if (plan.tail == 0) {
    return;
  }
  for (const SeqRows& seq : region_.step.seqs) {
    const int last = (seq.n_past + seq.n - 1) / kernels::kPageTokens;
    const int first = std::max(seq.exact.stays, last - plan.ring_pages) + 1;
    if (first > last) {
      continue;
    }
    worker_.for_chunks(int64_t{last - first + 1} * kv.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int page = first + static_cast<int>(i / kv.heads), head = static_cast<int>(i % kv.heads);
        if (kv.exact_k != nullptr) {
          std::memcpy(region_.exact.kept_k(layer, seq, page, head), region_.exact.k(layer, seq, page, head),
                      kv.exact_k->page_bytes(kv.dim_k));
        }
        if (kv.exact_v != nullptr) {
          std::memcpy(region_.exact.kept_v(layer, seq, page, head), region_.exact.v(layer, seq, page, head),
                      kv.exact_v->page_bytes(kv.dim_v));
        }
      }
    });
  }
}

AttentionHead CpuOps::source_of(int layer, int head, const SeqRows& seq) const {
  return {&region_.arena, &region_.kv.layers[static_cast<size_t>(layer)],          layer, head,
          seq.pages,      region_.kv.exact.slots() > 0 ? &region_.exact : nullptr, &seq};
}

int64_t CpuOps::count_blocks(int rows_per_block) const {
  int64_t blocks = 0;
  for (const SeqRows& seq : region_.step.seqs) {
    blocks += (seq.n + rows_per_block - 1) / rows_per_block;
  }
  return blocks;
}

CpuOps::Block CpuOps::block_at(int64_t index, int rows_per_block) const {
  for (const SeqRows& seq : region_.step.seqs) {
    const int64_t blocks = (seq.n + rows_per_block - 1) / rows_per_block;
    if (index < blocks) {
      const int first = static_cast<int>(index) * rows_per_block;
      return {&seq, first, std::min(rows_per_block, seq.n - first)};
    }
    index -= blocks;
  }
  AR_CHECK(false, "a block beyond the step");
}

void CpuOps::attend_block(int layer, int head, const Block& block, const float* q, float* a) {
  const KvLayer& kv = region_.kv.layers[static_cast<size_t>(layer)];
  const int64_t q_width = int64_t{kv.heads} * kv.group * kv.dim_k,
                a_width = int64_t{kv.heads} * kv.group * kv.dim_v;
  const int row0 = block.seq->row0 + block.first, n = block.rows * kv.group;
  prepare_queries(kv, q + at(row0, q_width) + at(head, int64_t{kv.group} * kv.dim_k), q_width, block.rows,
                  scratch_.query);
  for (int i = 0; i < n; ++i) {
    scratch_.visible[i] = block.seq->n_past + block.first + i / kv.group + 1;
  }
  std::fill_n(scratch_.total.max, n, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch_.total.sum, n, 0.0F);
  std::fill_n(scratch_.total.acc, at(n, kv.dim_v), 0.0F);
  const AttentionHead source = source_of(layer, head, *block.seq);
  const int chunks = chunks_of(scratch_.visible[n - 1]);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    attend_chunk(source, chunk, scratch_.query, n, scratch_.visible, scratch_.scores, scratch_.chunk);
    merge(scratch_.total, scratch_.chunk, n, kv.dim_v);
  }
  for (int i = 0; i < n; ++i) {
    const int64_t row = row0 + i / kv.group, query_head = int64_t{head} * kv.group + i % kv.group;
    finish(kv, head, scratch_.total, i, a + at(row, a_width) + at(query_head, kv.dim_v));
  }
}

Partial CpuOps::split_slot(int64_t index, const KvLayer& kv) const {
  float* base = region_.space.split + at(index, region_.space.split_stride);
  return {base, base + kv.group, base + 2 * kv.group};
}

// Few rows and few heads: chunks of context are shared out as well, then merged in the order attend_block
// has.
void CpuOps::attend_split(int layer, const float* q, float* a, int max_chunks) {
  const KvLayer& kv = region_.kv.layers[static_cast<size_t>(layer)];
  const int64_t q_width = int64_t{kv.heads} * kv.group * kv.dim_k,
                a_width = int64_t{kv.heads} * kv.group * kv.dim_v;
  const int64_t items = int64_t{n_rows()} * kv.heads;
  worker_.for_chunks(items * max_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = i / max_chunks;
      const int chunk = static_cast<int>(i % max_chunks), head = static_cast<int>(item % kv.heads);
      const Block block = block_at(item / kv.heads, 1);
      const int visible = block.seq->n_past + block.first + 1;
      if (chunk >= chunks_of(visible)) {
        continue;
      }
      prepare_queries(kv,
                      q + at(block.seq->row0 + block.first, q_width) + at(head, int64_t{kv.group} * kv.dim_k),
                      q_width, 1, scratch_.query);
      std::fill_n(scratch_.visible, kv.group, visible);
      attend_chunk(source_of(layer, head, *block.seq), chunk, scratch_.query, kv.group, scratch_.visible,
                   scratch_.scores, split_slot(i, kv));
    }
  });
  worker_.for_chunks(items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const Block block = block_at(item / kv.heads, 1);
      std::fill_n(scratch_.total.max, kv.group, -std::numeric_limits<float>::infinity());
      std::fill_n(scratch_.total.sum, kv.group, 0.0F);
      std::fill_n(scratch_.total.acc, at(kv.group, kv.dim_v), 0.0F);
      const int chunks = chunks_of(block.seq->n_past + block.first + 1);
      for (int chunk = 0; chunk < chunks; ++chunk) {
        merge(scratch_.total, split_slot(item * max_chunks + chunk, kv), kv.group, kv.dim_v);
      }
      float* out =
          a + at(block.seq->row0 + block.first, a_width) + at(item % kv.heads, int64_t{kv.group} * kv.dim_v);
      for (int i = 0; i < kv.group; ++i) {
        finish(kv, static_cast<int>(item % kv.heads), scratch_.total, i, out + at(i, kv.dim_v));
      }
    }
  });
}

void CpuOps::attention(int layer, const float* q, float* a) {
  const KvLayer& kv = region_.kv.layers[static_cast<size_t>(layer)];
  int longest = 0;
  for (const SeqRows& seq : region_.step.seqs) {
    longest = std::max(longest, seq.n_past + seq.n);
  }
  const int max_chunks = chunks_of(longest);
  const int64_t items = int64_t{n_rows()} * kv.heads;
  if (max_chunks > 1 && items < 2 * worker_.count() && items * max_chunks <= region_.space.split_slots) {
    attend_split(layer, q, a, max_chunks);
    keep_copies(layer);
    return;
  }
  const int rows = block_rows(kv.group);
  const int64_t blocks = count_blocks(rows);
  worker_.for_chunks(blocks * kv.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = blocks * kv.heads - 1 - i;  // the last blocks see most: start with them
      attend_block(layer, static_cast<int>(item % kv.heads), block_at(item / kv.heads, rows), q, a);
    }
  });
  keep_copies(layer);
}

}  // namespace engine
