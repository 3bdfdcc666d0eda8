#pragma once
// The storage types of a KV cache as whoever plans with them knows them: names and sizes, for all rooms. What the
// kernels do with them is in kernels/formats, in a table of its own; a test holds the two together.

#include <string_view>

namespace base {

struct KvType {
  std::string_view name;  // as --cache-type-k spells it
  int block_values = 1, block_bytes = 0;
  // A head is cut into powers of two of at most block_values, each under an fp16 scale of its own: a smaller tile takes
  // its share of the codes and a whole scale. Others have whole blocks only, the last of them padded.
  bool tiles = false;
};

// From the largest to the smallest, but for equals.
inline constexpr KvType kKvTypes[] = {
    {"f32", 1, 4, false},      {"f16", 1, 2, false},      {"bf16", 1, 2, false},
    {"q8_0", 32, 34, false},   {"q5_1", 32, 24, false},   {"q5_0", 32, 22, false},
    {"q4_1", 32, 20, false},   {"q4_0", 32, 18, false},   {"iq4_nl", 32, 18, false},
    {"tbq4_0", 128, 66, true}, {"tbq3_0", 128, 50, true}, {"tcq4_0", 128, 66, true},
    {"tcq3_0", 128, 50, true},
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

// Scales included; 0 for a name that is no type.
constexpr double kv_bits_per_value(std::string_view name) {
  const KvType* type = find_kv_type(name);
  return type == nullptr ? 0 : 8.0 * type->block_bytes / type->block_values;
}

}  // namespace base
