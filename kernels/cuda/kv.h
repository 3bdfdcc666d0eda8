#pragma once
// The KV cache on the device: writing rows into pages, and attention over them. Pages are those of
// kernels/formats (DESIGN: "KV storage"), so that their bytes can be copied between CPU and GPU.

#include <limits>
#include <optional>

#include "kernels/cuda/launch.h"
#include "kernels/formats/formats.h"

namespace kernels::cuda {

enum class KvType : int {
  kF32,
  kF16,
  kBf16,
  kQ8_0,
  kQ5_1,
  kQ5_0,
  kQ4_1,
  kQ4_0,
  kIq4Nl,
  kTbq4_0,
  kTbq3_0,
  kTcq4_0,
  kTcq3_0
};
// Rows are stored in tiles of the rotation, which writing rotates itself.
constexpr bool rotates_itself(KvType type) {
  return type >= KvType::kTbq4_0;
}
constexpr bool has_codes(KvType type) {
  return type >= KvType::kQ8_0;
}
// nullopt: the GPU has no such type, or not for heads of that size: a multiple of 16, at most kMostKvDim.
std::optional<KvType> kv_type(const KvFormat& format, int head_dim);
inline constexpr int kMostKvDim = 512;

// Pages of one layer and side: page p of KV head h at pages + p * page_stride + h * head_stride.
struct KvPages {
  KvType type = KvType::kF16;
  void* pages = nullptr;  // aligned to kPlaneAlign, as are the strides
  int64_t page_stride = 0, head_stride = 0;
};

struct KvSide {
  KvPages pages;
  int dim = 0;
  bool rotate = false;  // rows are rotated before they are written, for types that do not do so themselves
  const float* mean = nullptr;  // (heads x dim), taken from each row and added to the output; nullptr: none
  // Copies of the sink's and the tail's pages in the same basis; pages.pages = nullptr: there are none.
  KvPages exact = {};
  bool rotated() const { return rotate || rotates_itself(pages.type); }
};

struct KvWrite {
  KvSide k, v;
  int heads = 0;
  const float *k_rows = nullptr, *v_rows = nullptr;  // [rows x heads x dim]
  // Of each row: its page and slot; its page among the copies or -1 (nullptr: nowhere).
  const int *page = nullptr, *slot = nullptr, *exact_page = nullptr;
};
// Every row into its slot; the bytes are the CPU's (but which NaN an f16 or bf16 NaN becomes).
base::Result<void> kv_write(Stream stream, Rows rows, const KvWrite& write);

// Tokens of context that one block attends to: fixed, so that results do not depend on how work is split.
inline constexpr int kChunkTokens = 4 * kPageTokens;

struct Attention {
  KvSide k, v;
  int heads = 0, group = 1;  // KV heads; query heads of each
  const float* q = nullptr;  // [rows x heads x group x k.dim], in the model's basis
  // Of each row: how many tokens it sees, at least 1; its sequence's row in the tables of pages.
  const int *visible = nullptr, *seq = nullptr;
  const int* pages = nullptr;        // [seqs x seq_pages]
  const int* exact_pages = nullptr;  // likewise: the page's copy or -1; nullptr: nowhere
  int seq_pages = 0;
  // Copies are read of a sequence's first sink_pages pages, and by each row of those its own last `tail` tokens are in:
  // from page (visible - tail) / kPageTokens on (0: none).
  int sink_pages = std::numeric_limits<int>::max(), tail = 0;
  float* out = nullptr;      // [rows x heads x group x v.dim], in the model's basis
  float* partial = nullptr;  // partial_floats(...); prefill has no use for it
};
// Floats that attention over up to most_tokens needs for parts of its result.
size_t partial_floats(int rows, int heads, int group, int dim_v, int most_tokens);
// Softmax(q k / sqrt(dim)) v. Queries are rounded to int8 for integer types of K (kernels/scores.h: as there, and the
// types that it has not by blocks of 32). Decode and few rows: each row reads its own context. most_tokens: no row sees
// more.
base::Result<void> attend(Stream stream, Rows rows, const Attention& attention, int most_tokens);

// The same for many rows, on tensor cores: queries, keys, values and weights as float16, sums in float32. Rows of a
// sequence that follow one another share what they read of it; those of several may follow one another in any way. A
// row's result does not depend on the others, but is not, to the bit, what attend gives.
base::Result<void> attend_prefill(Stream stream, Rows rows, const Attention& attention);
// The largest k.dim and v.dim it takes.
inline constexpr int kMostPrefillDim = 256;

}  // namespace kernels::cuda
