#pragma once
// THE table of storage formats: one row per format, one .h/.cc pair per format in this directory. Nothing
// outside kernels/formats/ names a format except by looking it up here, but for the tables of integer dots
// (kernels/dots_ref.cc, kernels/isa/), which go by the ggml type.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace kernels {

// ---- Weights: rows of blocks, as GGUF stores them ----
//
// Most are codes under scales and are described by a Layout in their header alone (parts.h); a row here and the
// two fast ways to read their codes (weight_parts-inl.h) are all that a further one needs.

struct WeightFormat {
  std::string_view name;  // "q8_0", lower case, as GGUF tools spell it
  uint32_t ggml_type;     // the type id in a GGUF tensor table
  int block_values;       // values per block; a row's length is a multiple of it
  int block_bytes;

  // The specification: out[0..n) = the row's values. n is a multiple of block_values; row needs no alignment.
  void (*dequantize)(const std::byte* row, int64_t n, float* out);
  // Fast and bit-identical to dequantize (but a NaN is just a NaN: which one may differ).
  void (*dequantize_fast)(const std::byte* row, int64_t n, float* out);
  // Fused, for one activation vector: out[i] = <row i, x> for n_rows rows row_bytes apart, without passing
  // the values through memory. The value of each row is the one that matmul (ops.h) gives it in any other
  // way.
  void (*dot_rows)(const std::byte* row, size_t row_bytes, int n_rows, const float* x, int64_t n, float* out);
  // Rounds n values into blocks; nullptr where the project never writes the format.
  void (*quantize)(const float* values, int64_t n, std::byte* row);
};

std::span<const WeightFormat> weight_formats();
// nullptr when the type is unknown.
const WeightFormat* find_weight_format(uint32_t ggml_type);

// ---- KV cache: pages of kPageTokens rows of one layer, KV head and side ----

inline constexpr int kPageTokens = 128;
inline constexpr size_t kPlaneAlign = 64;  // planes inside a page and pages themselves start on this
inline constexpr int kMaxHeadDim = 1024;   // head_dim everywhere: a multiple of 8, from 8 to this

// What accumulate() may leave out: weights below that, of a softmax whose largest is 1.
inline constexpr float kNoWeight = 1e-6F;

// A page holds one or two code planes, then (where the format has scales) a plane of fp16 scales; each plane
// holds the rows of slots 0..127 one after the other and is kPlaneAlign-aligned. Values are stored in the
// format's own basis: a rotated format (TBQ) stores H(sigma*x) in power-of-two tiles of the head, the others what they
// are given, which the caller may have rotated. Where rows are rotated, a query is rotated once by rotate_head and
// attention output is rotated back once by unrotate_head.
struct KvFormat {
  std::string_view name;  // "tbq4_0", as --cache-type-k spells it
  bool rotated;
  // Rows of the others may be rotated before they are written (rotate_head), queries and output with them: the
  // caller's choice. Where that was measured to keep more of the model, true (results/kv-rotation.md).
  bool better_rotated;
  // Values that share a scale; a head's last group may be shorter (head_dim 80 = 64 + 16). 0: no scales.
  int group_values;
  // Exact size of one page. Multiple of kPlaneAlign.
  size_t (*page_bytes)(int head_dim);
  // Writes one row (head_dim values; a rotated format rotates them itself) into a slot. Deterministic; touches that slot's bytes
  // alone.
  void (*write_row)(const float* x, int head_dim, std::byte* page, int slot);
  // The specification of reading: out[n x head_dim] = rows slot0..slot0+n in the stored (rotated) basis.
  void (*load_rows)(const std::byte* page, int head_dim, int slot0, int n, float* out);
  // scores[q * score_stride + t] = <query[q], row slot0+t>, for n_q queries ([n_q x head_dim], stored basis).
  // The value for one (q, t) does not depend on n, n_q or slot0.
  void (*score)(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                float* scores, int score_stride);
  // acc[q x head_dim] += sum over t ascending of weights[q * weight_stride + t] * row slot0+t (stored basis). Weights
  // are of a softmax whose largest is 1: one under kNoWeight may count as none.
  void (*accumulate)(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                     int weight_stride, int n_q, float* acc);
  // As score, but with the query rounded to int8 where that is faster (kernels/scores.h): the bits depend on no
  // instruction set either. nullptr: the format has nothing faster than score.
  void (*score_rounded)(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                        float* scores, int score_stride) = nullptr;
};

std::span<const KvFormat> kv_formats();
// nullptr when no format has that name.
const KvFormat* find_kv_format(std::string_view name);
// "f32, f16, q8_0, ...": for error messages and --help.
std::string_view kv_format_names();

// head[0..head_dim) -> the rotated basis and back, in place, by power-of-two tiles of at most 128 (80 = 64 +
// 16, 192 = 128 + 64). Exact inverses up to float rounding.
void rotate_head(float* head, int head_dim);
void unrotate_head(float* head, int head_dim);

}  // namespace kernels
