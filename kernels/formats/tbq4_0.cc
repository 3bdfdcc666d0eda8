#include "kernels/formats/tbq4_0.h"

#include <algorithm>

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/tbq4_0.cc"
#define KERNELS_FORMAT tbq4_0
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/tbq.h"
#include "kernels/formats/tbq_unpack-inl.h"
#include "kernels/scores.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::tbq4_0::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

class Reader {
 public:
  Reader(const std::byte* page, int head_dim)
      : codes_(reinterpret_cast<const uint8_t*>(page)),
        scales_(reinterpret_cast<const uint8_t*>(page + plane_bytes(head_dim / 2))),
        n_(head_dim),
        n_tiles_(tile_count(head_dim)) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const uint8_t* codes = codes_ + static_cast<size_t>(n_ / 2) * slot;
    const uint8_t* scales = scales_ + 2 * static_cast<size_t>(n_tiles_) * slot;
    for (int begin = 0; begin < n_; scales += 2) {
      const int d = tile_at(begin, n_);
      unpack_tile(codes + begin / 2, half_at(scales), d, out + begin);
      begin += d;
    }
  }

#if HWY_TARGET == HWY_AVX3
  static constexpr bool kByColumns = true;
  const uint8_t* scales() const {
    return scales_;
  }
  int group_of(int unit) const {
    return tile_of(unit * kUnit, n_);
  }
  template <int U>
  HWY_INLINE void unit(int slot, int first, VF* v) const {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    const VF values = float_centroids<kTbq4Table, 0, 16>();
    const uint8_t* codes = codes_ + static_cast<size_t>(n_ / 2) * slot + 16 * (first + U);
    const auto bytes = hn::PromoteTo(di, hn::LoadU(d8, codes));
    v[2 * U] = VF{_mm512_permutexvar_ps(bytes.raw, values.raw)};
    v[2 * U + 1] = VF{_mm512_permutexvar_ps(hn::ShiftRight<4>(bytes).raw, values.raw)};
  }
#endif

 private:
  static HWY_INLINE void unpack_tile(const uint8_t* codes, float scale, int d, float* out) {
    int i = 0;
#if HWY_TARGET == HWY_AVX3
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    const VF values = scaled_centroids<kTbq4Table, 0, 16>(scale);
    for (; i + kUnit <= d; i += kUnit) {
      const auto bytes = hn::PromoteTo(di, hn::LoadU(d8, codes + i / 2));
      hn::Store(VF{_mm512_permutexvar_ps(bytes.raw, values.raw)}, FloatTag(), out + i);
      hn::Store(VF{_mm512_permutexvar_ps(hn::ShiftRight<4>(bytes).raw, values.raw)}, FloatTag(),
                out + i + kUnit / 2);
    }
#elif HWY_TARGET != HWY_SCALAR
    const hn::Full128<uint8_t> d8;
    const auto table = hn::Load(d8, reinterpret_cast<const uint8_t*>(kTbq4Table.data()));
    const VF scales = hn::Set(FloatTag(), scale);
    for (; i + kUnit <= d; i += kUnit) {
      const auto bytes = hn::LoadU(d8, codes + i / 2);
      const auto low = hn::TableLookupBytes(table, hn::And(bytes, hn::Set(d8, 15)));
      const auto high = hn::TableLookupBytes(table, hn::ShiftRight<4>(bytes));
      store_scaled(hn::BitCast(hn::Full128<int8_t>(), low), scales, out + i);
      store_scaled(hn::BitCast(hn::Full128<int8_t>(), high), scales, out + i + kUnit / 2);
    }
#endif
    const int half = (d < kUnit ? d : kUnit) / 2;
    for (; i < d; i += 2 * half) {
      for (int k = 0; k < half; ++k) {
        const int byte = codes[i / 2 + k];
        out[i + k] = scale * static_cast<float>(kTbq4Table[byte & 15]);
        out[i + half + k] = scale * static_cast<float>(kTbq4Table[byte >> 4]);
      }
    }
  }

  const uint8_t* codes_;
  const uint8_t* scales_;
  int n_, n_tiles_;
};

}  // namespace

}  // namespace kernels::tbq4_0::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::tbq4_0 {

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return plane_bytes(head_dim / 2) + plane_bytes(2 * static_cast<size_t>(tile_count(head_dim)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* row = page + static_cast<size_t>(head_dim / 2) * slot;
  std::byte* scales = page + plane_bytes(head_dim / 2);
  uint8_t codes[kMaxTile];
  int tile = 0;
  for (int begin = 0; begin < head_dim; ++tile) {
    const int d = tile_at(begin, head_dim);
    set_scale(scales, tile_count(head_dim), slot, tile, tbq_encode_tile(kTbq4Grid, x + begin, d, codes));
    const int half = std::min(kUnit, d) / 2;
    for (int i = 0; i < d / 2; ++i) {
      const int value = i / half * 2 * half + i % half;
      row[begin / 2 + i] = static_cast<std::byte>(codes[value] | codes[value + half] << 4);
    }
    begin += d;
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + plane_bytes(head_dim / 2);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* row = page + static_cast<size_t>(head_dim / 2) * slot;
    int tile = 0;
    for (int begin = 0; begin < head_dim; ++tile) {
      const int d = tile_at(begin, head_dim);
      const float scale = scale_at(scales, tile_count(head_dim), slot, tile);
      const int half = std::min(kUnit, d) / 2;
      for (int i = 0; i < d / 2; ++i) {
        const int value = begin + i / half * 2 * half + i % half;
        const auto byte = static_cast<int>(row[begin / 2 + i]);
        out[value] = scale * static_cast<float>(tbq_centroid(kTbq4Grid, byte & 15));
        out[value + half] = scale * static_cast<float>(tbq_centroid(kTbq4Grid, byte >> 4));
      }
      begin += d;
    }
  }
}

void score_rounded(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride) {
  if (head_dim % kBlock != 0) {
    score(page, head_dim, slot0, n, query, n_q, scores, score_stride);
    return;
  }
  ScoreRows rows{.stored = ScoreCodes::kNibbles, .tiles = true, .head_dim = head_dim};
  const auto slot = static_cast<size_t>(slot0);
  rows.integers = kTbq4Table.data();
  rows.codes = reinterpret_cast<const uint8_t*>(page) + rows.codes_row() * slot;
  rows.scales =
      reinterpret_cast<const uint8_t*>(page) + plane_bytes(rows.codes_row()) + rows.scales_row() * slot;
  score_rows(rows, n, query, n_q, scores, score_stride);
}

}  // namespace kernels::tbq4_0

#endif  // HWY_ONCE
