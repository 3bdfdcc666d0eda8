#include "kernels/formats/f32.h"

#include <cstring>

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/f32.cc"
#define KERNELS_FORMAT f32
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::f32::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Loader {
  static constexpr bool kElements = true;
  static constexpr int kBytes = 128;
  using Block = const uint8_t*;
  static HWY_INLINE Block open(const uint8_t* p) { return p; }
  template <int K>
  static HWY_INLINE VF get(Block b) {
    return words_at(FloatTag(), b + 4 * K * kLanes);
  }
  static HWY_INLINE float one(const uint8_t* p) {
    float value;
    std::memcpy(&value, p, 4);
    return value;
  }
};

class Reader {
 public:
  Reader(const std::byte* page, int head_dim)
      : page_(page), row_(sizeof(float) * static_cast<size_t>(head_dim)) {}
  HWY_INLINE void unpack(int slot, float* out) const { std::memcpy(out, page_ + row_ * slot, row_); }

 private:
  const std::byte* page_;
  size_t row_;
};

}  // namespace

}  // namespace kernels::f32::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::f32 {

void dequantize(const std::byte* row, int64_t n, float* out) {
  std::memcpy(out, row, 4 * n);
}
size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(4 * static_cast<size_t>(head_dim));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  const size_t row = 4 * static_cast<size_t>(head_dim);
  std::memcpy(page + row * slot, x, row);
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const size_t row = 4 * static_cast<size_t>(head_dim);
  std::memcpy(out, page + row * slot0, row * n);
}

}  // namespace kernels::f32

#endif  // HWY_ONCE
