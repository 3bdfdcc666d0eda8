#pragma once
// Causal attention over KV pages on the CPU. The context is cut into fixed chunks of kChunkTokens; each
// chunk's softmax is computed from zero and merged in ascending order, whoever computes it, so that the
// result depends neither on the number of threads nor on how many rows a step has.

#include <span>

#include "src/engine/cpu_memory.h"

namespace engine {

// One KV head of one layer, as a block of query rows of one sequence sees it.
struct AttentionHead {
  const KvArena* arena = nullptr;
  const KvLayer* kv = nullptr;
  int layer = 0, head = 0;
  std::span<const int> pages;
  // Where some of the pages are exact too; nullptr: nowhere.
  const ExactArena* exact = nullptr;
  const SeqRows* seq = nullptr;
};

// Writes a token's key [dim_k] and value [dim_v] of one KV head, less its means, into a slot of its pages. Both are
// left as they were given to the formats.
void store_row(const KvLayer& kv, int head, float* key, float* value, std::byte* k_page, std::byte* v_page,
               int slot);

// The same row into its exact copies, for the sides that have them; `key` and `value` as store_row left them. May
// overwrite both.
void store_copy(const KvLayer& kv, float* key, float* value, std::byte* k_page, std::byte* v_page, int slot);

// Copies queries into `out` [n x dim_k], scaled by 1/sqrt(dim_k) and in the basis K is stored in. q: the
// first query of the head in its row; rows are row_stride apart.
void prepare_queries(const KvLayer& kv, const float* q, int64_t row_stride, int n_rows, float* out);

// The softmax of n queries over chunk `chunk`. visible[i], ascending: tokens query i may see, at least 0. Each query
// reads the pages of the sink and of its own tail from their copies.
void attend_chunk(const AttentionHead& head, int chunk, const float* query, int n, const int* visible,
                  float* scores, const Partial& out);

// into = into and from, joined. `into` starts with max = -inf.
void merge(const Partial& into, const Partial& from, int n, int dim_v);

// out [dim_v] of query i, one of those of a KV head: normalised, back in the model's basis, with the mean of the values.
void finish(const KvLayer& kv, int head, const Partial& total, int i, float* out);

}  // namespace engine
