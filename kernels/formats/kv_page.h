#pragma once
// Where things lie in a KV page: planes of kPageTokens rows one after the other, each plane
// kPlaneAlign-aligned.

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/formats/formats.h"
#include "kernels/formats/half.h"
#include "src/base/check.h"

namespace kernels {

// The kernels' buffers on the stack have room for heads of kMaxHeadDim; whoever reads models refuses others.
inline void check_head_dim(int head_dim) {
  AR_CHECK(head_dim > 0 && head_dim <= kMaxHeadDim, "a head the kernels have no room for");
}

// Bytes of a plane whose rows take row_bytes.
inline constexpr size_t plane_bytes(size_t row_bytes) {
  const size_t bytes = row_bytes * kPageTokens;
  return (bytes + kPlaneAlign - 1) / kPlaneAlign * kPlaneAlign;
}

// Values per scale in Q8_0 and Q4_0.
inline constexpr int kBlock = 32;

// Groups of `group` values in a head, the last one possibly shorter.
inline constexpr int group_count(int head_dim, int group) {
  return (head_dim + group - 1) / group;
}

// A rotated format's tiles: the largest power of two that is left, at most 128 (80 = 64 + 16).
inline constexpr int kMaxTile = 128;
inline constexpr int tile_at(int begin, int head_dim) {
  const int left = head_dim - begin;
  return left >= kMaxTile ? kMaxTile : static_cast<int>(std::bit_floor(static_cast<unsigned>(left)));
}
// The tile that value `at` belongs to.
inline constexpr int tile_of(int at, int head_dim) {
  int tile = 0;
  for (int end = tile_at(0, head_dim); end <= at; end += tile_at(end, head_dim)) {
    ++tile;
  }
  return tile;
}
// Value `at`, a multiple of 8 below head_dim, is the first of its tile: 128s, then the bits of what is left, highest
// first.
inline constexpr bool tile_begins(int at, int head_dim) {
  const int left = head_dim % kMaxTile, in_left = at - (head_dim - left);
  return in_left < 0 ? at % kMaxTile == 0 : in_left == 0 || (left & -(in_left & -in_left)) == in_left;
}
inline constexpr int tile_count(int head_dim) {
  return head_dim / kMaxTile + std::popcount(static_cast<unsigned>(head_dim % kMaxTile));
}

// The fp16 scale of one group of one slot in a page's scale plane.
inline float scale_at(const std::byte* scales, int n_groups, int slot, int group) {
  return f32_from_f16(load_unaligned<uint16_t>(scales + 2 * (static_cast<size_t>(slot) * n_groups + group)));
}
inline void set_scale(std::byte* scales, int n_groups, int slot, int group, uint16_t scale) {
  store_unaligned(scales + 2 * (static_cast<size_t>(slot) * n_groups + group), scale);
}

}  // namespace kernels
