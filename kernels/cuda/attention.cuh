#pragma once
// What attention of decode and of prefill share: what rows see, and where its keys and values lie.

#include "kernels/cuda/kv.cuh"

namespace kernels::cuda {

struct Side {
  PagesOnDevice pages, exact;
  int dim;
  bool rotated;
  Global<const float> mean;
};
struct Context {
  int most_rows;
  Global<const int> used_rows;
  Side k, v;
  int heads, group;  // KV heads; query heads of each
  Global<const float> q;
  Global<const int> visible, seq, pages, exact_pages;
  int seq_pages, sink_pages, tail;
  float scale;
};
Context context_of(Rows rows, const Attention& attention);

// Where a token's key or value lies. Fields one by one: a reference to either of two kernel arguments would put them
// all into local memory.
struct Source {
  KvType type;
  Planes planes;
  Global<uint8_t> page;
};

// The page's copy, or -1: of `page` of sequence `seq`, were it the sink's or the tail's.
__device__ __forceinline__ int copy_of(const Context& a, int seq, int page) {
  return a.exact_pages == nullptr ? -1 : a.exact_pages[int64_t{seq} * a.seq_pages + page];
}
// Whether a row that sees `visible` tokens reads page `page` from its copy, should it have one.
__device__ __forceinline__ bool reads_copy(const Context& a, int visible, int page) {
  return page < a.sink_pages ||
         (a.tail > 0 && page >= (visible <= a.tail ? 0 : (visible - a.tail) / kPageTokens));
}
// copy: -1 for the page itself.
__device__ __forceinline__ Source source_of(const Context& a, const Side& side, int seq, int page, int copy,
                                            int head) {
  Source from{side.pages.type, side.pages.planes, nullptr};
  if (copy >= 0 && !(side.exact.pages == nullptr)) {
    from.type = side.exact.type;
    from.planes.codes_row = side.exact.planes.codes_row;
    from.planes.top_at = side.exact.planes.top_at;
    from.planes.top_row = side.exact.planes.top_row;
    from.planes.scales_at = side.exact.planes.scales_at;
    from.planes.scales_row = side.exact.planes.scales_row;
    from.page = page_at(side.exact, copy, head);
  } else {
    from.page = page_at(side.pages, a.pages[int64_t{seq} * a.seq_pages + page], head);
  }
  return from;
}

}  // namespace kernels::cuda
