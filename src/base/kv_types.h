#pragma once
// The storage types of a KV cache as whoever plans with them knows them: names and sizes, for all rooms. What the
// kernels do with them is in kernels/formats, in a table of its own; a test holds the two together.

#include <cstdint>
#include <string_view>

namespace base {

struct KvType {
  std::string_view name;  // as --cache-type-k spells it
  int block_values = 1, block_bytes = 0;
  int scale_bytes = 0;  // of block_bytes: the scale, and the minimum where there is one
  // A head is cut into powers of two of at most block_values, each under a scale of its own. Others have blocks, the
  // last of which may be smaller. Either way a smaller one takes its share of the codes and a whole scale.
  bool tiles = false;
};

// From the largest to the smallest, but for equals.
inline constexpr KvType kKvTypes[] = {
    {"f32", 1, 4, 0, false},      {"f16", 1, 2, 0, false},      {"bf16", 1, 2, 0, false},
    {"q8_0", 32, 34, 2, false},   {"q5_1", 32, 24, 4, false},   {"q5_0", 32, 22, 2, false},
    {"q4_1", 32, 20, 4, false},   {"q4_0", 32, 18, 2, false},   {"iq4_nl", 32, 18, 2, false},
    {"tbq4_0", 128, 66, 2, true}, {"tbq3_0", 128, 50, 2, true}, {"tcq4_0", 128, 66, 2, true},
    {"tcq3_0", 128, 50, 2, true},
};

// nullptr when no type has that name.
constexpr const KvType* find_kv_type(std::string_view name) {
  for (const KvType& type : kKvTypes) {
    if (type.name == name) {
      return &type;
    }
  }
  return nullptr;
}

// Bytes of one token's K (or V) of one head of `head_dim` values, below 2^56.
constexpr uint64_t kv_row_bytes(const KvType& type, uint64_t head_dim) {
  const auto block = static_cast<uint64_t>(type.block_values);
  const auto codes = static_cast<uint64_t>(type.block_bytes - type.scale_bytes);
  uint64_t groups = head_dim / block, rest = head_dim % block;
  if (!type.tiles) {
    groups += rest != 0 ? 1 : 0;
    rest = 0;
  }
  for (uint64_t tile = block / 2; rest > 0; rest %= tile, tile /= 2) {
    groups += rest / tile;
  }
  return head_dim / block * codes + head_dim % block * codes / block +
         groups * static_cast<uint64_t>(type.scale_bytes);
}

// Scales included; 0 for a name that is no type.
constexpr double kv_bits_per_value(std::string_view name) {
  const KvType* type = find_kv_type(name);
  return type == nullptr ? 0 : 8.0 * type->block_bytes / type->block_values;
}

}  // namespace base
