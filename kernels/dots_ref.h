#pragma once
// The reference of integer dots, format by format: THE table of formats that have them.

#include <cstdint>

#include "kernels/dots.h"

namespace kernels::ref {

struct DotFormat {
  uint32_t ggml_type;
  int group;  // of activations that share a scale
  float (*dot)(const uint8_t* row, const DotBlock* x, int64_t n);
};

// nullptr: the format has no integer dots.
const DotFormat* find_dot_format(uint32_t ggml_type);

}  // namespace kernels::ref
