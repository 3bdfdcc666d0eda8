#include "kernels/formats/q8_0.h"

#include <algorithm>
#include <cmath>

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q8_0.cc"
#define KERNELS_FORMAT q8_0
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q8_0::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Loader {
  static constexpr bool kElements = false;
  static constexpr int kBytes = 34;
  struct Block {
    VF d;
    const int8_t* q;
  };
  static HWY_INLINE Block open(const uint8_t* p) {
    return {half_in_all(p), reinterpret_cast<const int8_t*>(p + 2)};
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    return hn::Mul(b.d, bytes_at(FloatTag(), b.q + K * kLanes));
  }
};

class Reader {
 public:
  Reader(const std::byte* page, int head_dim)
      : codes_(reinterpret_cast<const int8_t*>(page)),
        scales_(reinterpret_cast<const uint8_t*>(page + plane_bytes(head_dim))),
        n_(head_dim),
        n_groups_(group_count(head_dim, kBlock)) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const hn::CappedTag<float, 8> d8;
    const int8_t* codes = codes_ + static_cast<size_t>(n_) * slot;
    const uint8_t* scale = scales_ + 2 * static_cast<size_t>(n_groups_) * slot;
    int i = 0;
    for (; i + kBlock <= n_; i += kBlock, scale += 2) {
      block_store<Loader>({half_in_all(scale), codes + i}, out + i);
    }
    for (; i < n_; i += static_cast<int>(hn::Lanes(d8))) {
      hn::Store(hn::Mul(hn::Set(d8, half_at(scale)), bytes_at(d8, codes + i)), d8, out + i);
    }
  }

 private:
  const int8_t* codes_;
  const uint8_t* scales_;
  int n_, n_groups_;
};

}  // namespace

}  // namespace kernels::q8_0::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::q8_0 {

namespace {

constexpr int kBlockBytes = 34;

// Rounds n <= 32 values into codes; returns the fp16 scale.
uint16_t quantize_group(const float* x, int n, std::byte* codes) {
  std::fill_n(codes, n, std::byte{0});
  float largest = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return 0;
    }
    largest = std::max(largest, std::fabs(x[i]));
  }
  const uint16_t scale = f16_saturated(largest / 127.0F);
  if (scale == 0) {
    return 0;
  }
  const float inverse = largest / 127.0F > kF16Max ? 1.0F / kF16Max : 127.0F / largest;
  for (int i = 0; i < n; ++i) {
    const float q = std::clamp(x[i] * inverse, -127.0F, 127.0F);
    codes[i] = static_cast<std::byte>(static_cast<int8_t>(q < 0.0F ? q - 0.5F : q + 0.5F));
  }
  return scale;
}

}  // namespace

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    const float d = f32_from_f16(load_unaligned<uint16_t>(row));
    for (int i = 0; i < kBlock; ++i) {
      out[begin + i] = d * static_cast<float>(static_cast<int8_t>(row[2 + i]));
    }
  }
}

void quantize(const float* values, int64_t n, std::byte* row) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    store_unaligned(row, quantize_group(values + begin, kBlock, row + 2));
  }
}

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(head_dim) + plane_bytes(2 * static_cast<size_t>(group_count(head_dim, kBlock)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* codes = page + static_cast<size_t>(head_dim) * slot;
  std::byte* scales = page + plane_bytes(head_dim);
  const int n_groups = group_count(head_dim, kBlock);
  for (int g = 0; g < n_groups; ++g) {
    const int begin = g * kBlock;
    const int n = std::min(kBlock, head_dim - begin);
    set_scale(scales, n_groups, slot, g, quantize_group(x + begin, n, codes + begin));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim);
  const int n_groups = group_count(head_dim, kBlock);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* codes = page + static_cast<size_t>(head_dim) * slot;
    for (int i = 0; i < head_dim; ++i) {
      out[i] =
          scale_at(scales, n_groups, slot, i / kBlock) * static_cast<float>(static_cast<int8_t>(codes[i]));
    }
  }
}

}  // namespace kernels::q8_0

#endif  // HWY_ONCE
