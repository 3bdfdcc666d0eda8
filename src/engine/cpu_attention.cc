#include "src/engine/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace engine {
namespace {

const float* mean_of(const float* means, int head, int dim) {
  return means == nullptr ? nullptr : means + static_cast<size_t>(head) * static_cast<size_t>(dim);
}

}  // namespace

void prepare_queries(const KvLayer& kv, const float* q, int64_t row_stride, int n_rows, float* out) {
  const float factor = 1 / std::sqrt(static_cast<float>(kv.dim_k));
  const auto width = static_cast<size_t>(kv.group) * static_cast<size_t>(kv.dim_k);
  for (int row = 0; row < n_rows; ++row) {
    float* block = out + static_cast<size_t>(row) * width;
    std::memcpy(block, q + row * row_stride, width * sizeof(float));
    kernels::scale(block, factor, static_cast<int>(width));
    for (int i = 0; i < kv.group && kv.k_rotated(); ++i) {
      kernels::rotate_head(block + static_cast<size_t>(i) * static_cast<size_t>(kv.dim_k), kv.dim_k);
    }
  }
}

void store_row(const KvLayer& kv, int head, float* key, float* value, std::byte* k_page, std::byte* v_page,
               int slot) {
  if (const float* mean = mean_of(kv.k_mean, head, kv.dim_k)) {
    std::transform(key, key + kv.dim_k, mean, key, std::minus<>());
  }
  if (const float* mean = mean_of(kv.v_mean, head, kv.dim_v)) {
    std::transform(value, value + kv.dim_v, mean, value, std::minus<>());
  }
  if (kv.rotate_k) {
    kernels::rotate_head(key, kv.dim_k);
  }
  if (kv.rotate_v) {
    kernels::rotate_head(value, kv.dim_v);
  }
  kv.k->write_row(key, kv.dim_k, k_page, slot);
  kv.v->write_row(value, kv.dim_v, v_page, slot);
}

void store_copy(const KvLayer& kv, float* key, float* value, std::byte* k_page, std::byte* v_page, int slot) {
  if (kv.exact_k != nullptr) {
    if (kv.k->rotated) {  // by itself, as it was written
      kernels::rotate_head(key, kv.dim_k);
    }
    kv.exact_k->write_row(key, kv.dim_k, k_page, slot);
  }
  if (kv.exact_v != nullptr) {
    if (kv.v->rotated) {
      kernels::rotate_head(value, kv.dim_v);
    }
    kv.exact_v->write_row(value, kv.dim_v, v_page, slot);
  }
}

namespace {

// How many of n queries read a page from its copy: the first, whose tails begin earlier.
int exact_queries(const AttentionHead& head, int page, int n, const int* visible) {
  if (head.exact == nullptr) {
    return 0;
  }
  const ExactRows& rows = head.seq->exact;
  if (page < rows.sink) {
    return n;
  }
  int i = 0;
  while (page >= rows.from && i < n &&
         head.exact->plan().tail_page(visible[i], kernels::kPageTokens) <= page) {
    ++i;
  }
  return i;
}

// work(first slot, how many) for the first `count` slots of a page, in few rows at a time; meanwhile as many of the next
// page, nullptr: none, are on their way into L2: the processor's own prefetch leaves half of the latency of rows that
// are a line or less, in several planes. Many queries have more to do with a page than wait for it.
template <class Work>
void by_slices(int count, int n_queries, const std::byte* next, size_t page_bytes, const Work& work) {
  constexpr int kIntoL2 = 2, kFewQueries = 8, kFewRows = 32;
  const int rows = n_queries > kFewQueries ? kernels::kPageTokens : kFewRows;
  const size_t slice_bytes = page_bytes * static_cast<size_t>(rows) / kernels::kPageTokens;
  for (int first = 0; first < count; first += rows) {
    for (size_t at = 0; at < slice_bytes && next != nullptr; at += 64) {
      __builtin_prefetch(next + at, 0, kIntoL2);
    }
    next = next == nullptr ? nullptr : next + slice_bytes;
    work(first, std::min(rows, count - first));
  }
}

}  // namespace

void attend_chunk(const AttentionHead& head, int chunk, const float* query, int n, const int* visible,
                  float* scores, const Partial& out) {
  const KvLayer& kv = *head.kv;
  const int begin = chunk * kChunkTokens;
  const int tokens = std::clamp(*std::max_element(visible, visible + n) - begin, 0, kChunkTokens);
  const auto score = kv.rounded_scores && kv.k->score_rounded != nullptr ? kv.k->score_rounded : kv.k->score;
  const size_t k_bytes = kv.k->page_bytes(kv.dim_k), v_bytes = kv.v->page_bytes(kv.dim_v);
  const auto k_page = [&](int page) {
    return head.arena->k(head.layer, head.pages[static_cast<size_t>(page)], head.head);
  };
  const auto v_page = [&](int page) {
    return head.arena->v(head.layer, head.pages[static_cast<size_t>(page)], head.head);
  };
  for (int at = 0; at < tokens; at += kernels::kPageTokens) {
    const int page = (begin + at) / kernels::kPageTokens, count = std::min(kernels::kPageTokens, tokens - at);
    const bool more = at + kernels::kPageTokens < tokens;
    const int n_exact = kv.exact_k == nullptr ? 0 : exact_queries(head, page, n, visible);
    if (n_exact > 0) {
      kv.exact_k->score(head.exact->k(head.layer, *head.seq, page, head.head), kv.dim_k, 0, count, query,
                        n_exact, scores + at, kChunkTokens);
    }
    if (n_exact < n) {
      const auto skipped = static_cast<size_t>(n_exact);
      by_slices(count, n - n_exact, more ? k_page(page + 1) : v_page(begin / kernels::kPageTokens),
                more ? k_bytes : v_bytes, [&](int first, int n_rows) {
                  score(k_page(page), kv.dim_k, first, n_rows,
                        query + skipped * static_cast<size_t>(kv.dim_k), n - n_exact,
                        scores + skipped * kChunkTokens + at + first, kChunkTokens);
                });
    }
  }
  for (int i = 0; i < n; ++i) {
    float* row = scores + static_cast<size_t>(i) * kChunkTokens;
    const int seen = std::clamp(visible[i] - begin, 0, tokens);
    out.max[i] = kernels::reduce_max(row, seen);
    out.sum[i] = seen == 0 ? 0 : kernels::exp_sum(row, seen, out.max[i]);
    // Later tokens of the block's other rows get no weight, which adds exact zeros.
    std::fill(row + seen, row + tokens, 0.0F);
  }
  std::fill(out.acc, out.acc + static_cast<size_t>(n) * static_cast<size_t>(kv.dim_v), 0.0F);
  for (int at = 0; at < tokens; at += kernels::kPageTokens) {
    const int page = (begin + at) / kernels::kPageTokens, count = std::min(kernels::kPageTokens, tokens - at);
    const bool more = at + kernels::kPageTokens < tokens;
    const int n_exact = kv.exact_v == nullptr ? 0 : exact_queries(head, page, n, visible);
    if (n_exact > 0) {
      kv.exact_v->accumulate(head.exact->v(head.layer, *head.seq, page, head.head), kv.dim_v, 0, count,
                             scores + at, kChunkTokens, n_exact, out.acc);
    }
    if (n_exact < n) {
      const auto skipped = static_cast<size_t>(n_exact);
      by_slices(count, n - n_exact, more ? v_page(page + 1) : nullptr, v_bytes, [&](int first, int n_rows) {
        kv.v->accumulate(v_page(page), kv.dim_v, first, n_rows, scores + skipped * kChunkTokens + at + first,
                         kChunkTokens, n - n_exact, out.acc + skipped * static_cast<size_t>(kv.dim_v));
      });
    }
  }
}

void merge(const Partial& into, const Partial& from, int n, int dim_v) {
  for (int i = 0; i < n; ++i) {
    if (from.sum[i] == 0) {
      continue;  // nothing of the chunk was visible
    }
    float* acc = into.acc + static_cast<size_t>(i) * static_cast<size_t>(dim_v);
    const float* add = from.acc + static_cast<size_t>(i) * static_cast<size_t>(dim_v);
    const float max = std::max(into.max[i], from.max[i]);
    const float keep = std::exp(into.max[i] - max);  // 0 for the first chunk, whose `into` is empty
    const float weight = std::exp(from.max[i] - max);
    for (int d = 0; d < dim_v; ++d) {
      acc[d] = acc[d] * keep + add[d] * weight;
    }
    into.sum[i] = into.sum[i] * keep + from.sum[i] * weight;
    into.max[i] = max;
  }
}

void finish(const KvLayer& kv, int head, const Partial& total, int i, float* out) {
  const float* acc = total.acc + static_cast<size_t>(i) * static_cast<size_t>(kv.dim_v);
  std::memcpy(out, acc, static_cast<size_t>(kv.dim_v) * sizeof(float));
  kernels::scale(out, 1 / total.sum[i], kv.dim_v);
  if (kv.v_rotated()) {
    kernels::unrotate_head(out, kv.dim_v);
  }
  if (const float* mean = mean_of(kv.v_mean, head, kv.dim_v)) {
    std::transform(out, out + kv.dim_v, mean, out, std::plus<>());
  }
}

}  // namespace engine
