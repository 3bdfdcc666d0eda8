#include "kernels/formats/q4_0.h"

#include <algorithm>
#include <cmath>

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q4_0.cc"
#define KERNELS_FORMAT q4_0
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/weight_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q4_0::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

struct Loader {
  static constexpr bool kElements = false;
  static constexpr int kBytes = 18;
#if HWY_TARGET == HWY_AVX3
  // All 16 values of the block in one register: a code is an index into it, whatever stands above its four
  // bits.
  struct Block {
    VF values;
    const uint8_t* q;
  };
  static HWY_INLINE Block block(const uint8_t* d, const uint8_t* q) {
    alignas(64) static constexpr float kCodes[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return {hn::Mul(half_in_all(d), hn::Load(FloatTag(), kCodes)), q};
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    const auto bytes = hn::PromoteTo(di, hn::LoadU(d8, b.q));
    return VF{_mm512_permutexvar_ps((K == 0 ? bytes : hn::ShiftRight<4>(bytes)).raw, b.values.raw)};
  }
#else
  struct Block {
    VF d;
    const uint8_t* q;
  };
  static HWY_INLINE Block block(const uint8_t* d, const uint8_t* q) {
    return {half_in_all(d), q};
  }
  template <int K>
  static HWY_INLINE VF get(const Block& b) {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    const auto bytes = hn::PromoteTo(di, hn::LoadU(d8, b.q + K * kLanes % 16));
    const auto codes = K * kLanes < 16 ? hn::And(bytes, hn::Set(di, 15)) : hn::ShiftRight<4>(bytes);
    return hn::Mul(b.d, hn::ConvertTo(FloatTag(), hn::Sub(codes, hn::Set(di, 8))));
  }
#endif
  static HWY_INLINE Block open(const uint8_t* p) {
    return block(p, p + 2);
  }
};

class Reader {
 public:
  Reader(const std::byte* page, int head_dim)
      : codes_(reinterpret_cast<const uint8_t*>(page)),
        scales_(reinterpret_cast<const uint8_t*>(page + plane_bytes(head_dim / 2))),
        n_(head_dim),
        n_groups_(group_count(head_dim, kBlock)) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const uint8_t* codes = codes_ + static_cast<size_t>(n_ / 2) * slot;
    const uint8_t* scale = scales_ + 2 * static_cast<size_t>(n_groups_) * slot;
    int i = 0;
    for (; i + kBlock <= n_; i += kBlock, scale += 2) {
      block_store<Loader>(Loader::block(scale, codes + i / 2), out + i);
    }
    if (i < n_) {
      const int half = (n_ - i) / 2;
      const float d = half_at(scale);
      for (int k = 0; k < half; ++k) {
        const int byte = codes[i / 2 + k];
        out[i + k] = d * static_cast<float>((byte & 15) - 8);
        out[i + half + k] = d * static_cast<float>((byte >> 4) - 8);
      }
    }
  }

 private:
  const uint8_t* codes_;
  const uint8_t* scales_;
  int n_, n_groups_;
};

}  // namespace

}  // namespace kernels::q4_0::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"
#include "kernels/formats/weight_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::q4_0 {

namespace {

constexpr int kBlockBytes = 18;
constexpr std::byte kZeros{0x88};

// Rounds n <= 32 values (n even) into n / 2 bytes of nibbles; returns the fp16 scale.
uint16_t quantize_group(const float* x, int n, std::byte* codes) {
  const int half = n / 2;
  std::fill_n(codes, half, kZeros);
  float extreme = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) {
      return 0;
    }
    extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  }
  const float d = extreme / -8.0F;
  const uint16_t scale = f16_saturated(d);
  if ((scale & 0x7fffU) == 0) {
    return 0;
  }
  const float inverse = std::fabs(d) > kF16Max ? 1.0F / std::copysign(kF16Max, d) : 1.0F / d;
  const auto code = [&](float value) {
    return static_cast<unsigned>(std::clamp(value * inverse + 8.5F, 0.0F, 15.0F));
  };
  for (int i = 0; i < half; ++i) {
    codes[i] = static_cast<std::byte>(code(x[i]) | code(x[i + half]) << 4);
  }
  return scale;
}

void dequantize_group(const std::byte* codes, float d, int n, float* out) {
  const int half = n / 2;
  for (int i = 0; i < half; ++i) {
    const auto byte = static_cast<int>(codes[i]);
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[i + half] = d * static_cast<float>((byte >> 4) - 8);
  }
}

}  // namespace

void dequantize(const std::byte* row, int64_t n, float* out) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    dequantize_group(row + 2, f32_from_f16(load_unaligned<uint16_t>(row)), kBlock, out + begin);
  }
}

void quantize(const float* values, int64_t n, std::byte* row) {
  for (int64_t begin = 0; begin < n; begin += kBlock, row += kBlockBytes) {
    store_unaligned(row, quantize_group(values + begin, kBlock, row + 2));
  }
}

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(head_dim / 2) + plane_bytes(2 * static_cast<size_t>(group_count(head_dim, kBlock)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* codes = page + static_cast<size_t>(head_dim / 2) * slot;
  std::byte* scales = page + plane_bytes(head_dim / 2);
  const int n_groups = group_count(head_dim, kBlock);
  for (int g = 0; g < n_groups; ++g) {
    const int begin = g * kBlock;
    const int n = std::min(kBlock, head_dim - begin);
    set_scale(scales, n_groups, slot, g, quantize_group(x + begin, n, codes + begin / 2));
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim / 2);
  const int n_groups = group_count(head_dim, kBlock);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* codes = page + static_cast<size_t>(head_dim / 2) * slot;
    for (int g = 0; g < n_groups; ++g) {
      const int begin = g * kBlock;
      dequantize_group(codes + begin / 2, scale_at(scales, n_groups, slot, g),
                       std::min(kBlock, head_dim - begin), out + begin);
    }
  }
}

}  // namespace kernels::q4_0

#endif  // HWY_ONCE
