#include "kernels/formats/tbq3_0.h"

#include <algorithm>

// Compiled once per instruction set: the part outside HWY_ONCE holds the fast functions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/tbq3_0.cc"
#define KERNELS_FORMAT tbq3_0
#include "kernels/each_target.h"
#include "kernels/formats/kv_attend-inl.h"
#include "kernels/formats/kv_page.h"
#include "kernels/formats/tbq.h"
#include "kernels/formats/tbq_unpack-inl.h"
#include "kernels/scores.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::tbq3_0::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

class Reader {
 public:
  Reader(const std::byte* page, int head_dim)
      : low_(reinterpret_cast<const uint8_t*>(page)),
        high_(reinterpret_cast<const uint8_t*>(page + high_plane(head_dim))),
        scales_(reinterpret_cast<const uint8_t*>(page + scale_plane(head_dim))),
        n_(head_dim),
        n_tiles_(tile_count(head_dim)) {}

  HWY_INLINE void unpack(int slot, float* out) const {
    const uint8_t* low = low_ + static_cast<size_t>(n_ / 4) * slot;
    const uint8_t* high = high_ + static_cast<size_t>(n_ / 8) * slot;
    const uint8_t* scales = scales_ + 2 * static_cast<size_t>(n_tiles_) * slot;
    for (int begin = 0; begin < n_; scales += 2) {
      const int d = tile_at(begin, n_);
      unpack_tile(low + begin / 4, high + begin / 8, half_at(scales), d, out + begin);
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
    const VF lower = float_centroids<kTbq3Table, 0, 4>(), upper = float_centroids<kTbq3Table, 4, 4>();
    const uint8_t* low = low_ + static_cast<size_t>(n_ / 4) * slot + 8 * (first + U);
    const uint8_t* high = high_ + static_cast<size_t>(n_ / 8) * slot + 4 * (first + U);
    look_up(low, high, lower, upper, v[2 * U], v[2 * U + 1]);
  }
#endif

 private:
#if HWY_TARGET == HWY_AVX3
  // A unit: two bits are an index into four centroids, the third is a mask that chooses which four.
  static HWY_INLINE void look_up(const uint8_t* low, const uint8_t* high, VF lower, VF upper, VF& v0,
                                 VF& v1) {
    const hn::Rebind<uint8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    alignas(64) static constexpr int32_t kShifts[16] = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
    uint64_t pairs;
    uint32_t thirds;
    std::memcpy(&pairs, low, 8);
    std::memcpy(&thirds, high, 4);
    // Value i < 8 of a half has its bits in byte i, value i + 8 two bits further up; the second half four.
    const auto twice = hn::BitCast(d8, hn::Set(hn::Full128<uint64_t>(), pairs));
    const auto first = hn::PromoteTo(di, twice) >> hn::Load(di, kShifts);
    const auto second = hn::ShiftRight<4>(first);
    const auto m0 = static_cast<__mmask16>(thirds), m1 = static_cast<__mmask16>(thirds >> 16);
    v0 =
        VF{_mm512_mask_permutexvar_ps(_mm512_permutexvar_ps(first.raw, lower.raw), m0, first.raw, upper.raw)};
    v1 = VF{
        _mm512_mask_permutexvar_ps(_mm512_permutexvar_ps(second.raw, lower.raw), m1, second.raw, upper.raw)};
  }
#endif

  static HWY_INLINE void unpack_tile(const uint8_t* low, const uint8_t* high, float scale, int d,
                                     float* out) {
    int i = 0;
#if HWY_TARGET == HWY_AVX3
    const VF lower = scaled_centroids<kTbq3Table, 0, 4>(scale),
             upper = scaled_centroids<kTbq3Table, 4, 4>(scale);
    for (; i + kUnit <= d; i += kUnit) {
      VF v0, v1;
      look_up(low + i / 4, high + i / 8, lower, upper, v0, v1);
      hn::Store(v0, FloatTag(), out + i);
      hn::Store(v1, FloatTag(), out + i + kUnit / 2);
    }
#elif HWY_TARGET != HWY_SCALAR
    const VF scales = hn::Set(FloatTag(), scale);
    for (; i + kUnit <= d; i += kUnit) {
      uint64_t pairs;
      uint32_t thirds;
      std::memcpy(&pairs, low + i / 4, 8);
      std::memcpy(&thirds, high + i / 8, 4);
      store_scaled(centroids(pairs, static_cast<uint16_t>(thirds)), scales, out + i);
      store_scaled(centroids(pairs >> 4, static_cast<uint16_t>(thirds >> 16)), scales, out + i + 16);
    }
#endif
    const int unit = std::clamp(d, 4, kUnit);  // a tile has 8 values or more
    for (; i < d; ++i) {
      const int in_unit = i % unit;
      const int quarter = unit / 4;
      const int pair = low[i / unit * quarter + in_unit % quarter] >> (2 * (in_unit / quarter)) & 3;
      const int third = high[i / 8] >> (i % 8) & 1;
      out[i] = scale * static_cast<float>(kTbq3Table[pair | third << 2]);
    }
  }

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_AVX3
  // 16 centroids: value i < 8 has its low two bits in bits 0-1 of byte i, value i + 8 in bits 2-3, and its
  // third bit is bit i of thirds.
  static HWY_INLINE Bytes16 centroids(uint64_t pairs, uint16_t thirds) {
    const hn::Full128<uint8_t> d8;
    const hn::Full128<uint16_t> d16;
    const hn::Full128<uint64_t> d64;
    alignas(16) const uint64_t both[2] = {pairs, pairs >> 2};
    const auto two = hn::And(hn::BitCast(d8, hn::Load(d64, both)), hn::Set(d8, 3));
    // Byte 0 of thirds eight times, then byte 1; one bit of it per lane.
    const auto spread = hn::TableLookupBytes(hn::BitCast(d8, hn::Set(d16, thirds)), hn::Load(d8, kSpread));
    const auto bit = hn::Load(d8, kBit);
    const auto third = hn::And(hn::VecFromMask(d8, hn::Eq(hn::And(spread, bit), bit)), hn::Set(d8, 4));
    const auto table = hn::Load(d8, reinterpret_cast<const uint8_t*>(kTbq3Table.data()));
    return hn::BitCast(hn::Full128<int8_t>(), hn::TableLookupBytes(table, hn::Or(two, third)));
  }
  alignas(16) static constexpr uint8_t kSpread[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  alignas(16) static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
#endif

  const uint8_t* low_;
  const uint8_t* high_;
  const uint8_t* scales_;
  int n_, n_tiles_;
};

}  // namespace

}  // namespace kernels::tbq3_0::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/kv_dispatch-inl.h"

#if HWY_ONCE

namespace kernels::tbq3_0 {

size_t high_plane(int head_dim) {
  return plane_bytes(head_dim / 4);
}
size_t scale_plane(int head_dim) {
  return high_plane(head_dim) + plane_bytes(head_dim / 8);
}

size_t page_bytes(int head_dim) {
  check_head_dim(head_dim);
  return scale_plane(head_dim) + plane_bytes(2 * static_cast<size_t>(tile_count(head_dim)));
}

void write_row(const float* x, int head_dim, std::byte* page, int slot) {
  std::byte* low = page + static_cast<size_t>(head_dim / 4) * slot;
  std::byte* high = page + high_plane(head_dim) + static_cast<size_t>(head_dim / 8) * slot;
  std::byte* scales = page + scale_plane(head_dim);
  uint8_t codes[kMaxTile];
  int tile = 0;
  for (int begin = 0; begin < head_dim; ++tile) {
    const int d = tile_at(begin, head_dim);
    set_scale(scales, tile_count(head_dim), slot, tile, tbq_encode_tile(kTbq3Grid, x + begin, d, codes));
    const int quarter = std::min(kUnit, d) / 4;
    for (int i = 0; i < d / 4; ++i) {
      const uint8_t* unit = codes + i / quarter * 4 * quarter + i % quarter;
      unsigned bits = 0;
      for (int k = 0; k < 4; ++k) {
        bits |= (unit[k * quarter] & 3U) << (2 * k);
      }
      low[begin / 4 + i] = static_cast<std::byte>(bits);
    }
    for (int i = 0; i < d / 8; ++i) {
      unsigned bits = 0;
      for (int k = 0; k < 8; ++k) {
        bits |= (codes[8 * i + k] >> 2 & 1U) << k;
      }
      high[begin / 8 + i] = static_cast<std::byte>(bits);
    }
    begin += d;
  }
}

void load_rows(const std::byte* page, int head_dim, int slot0, int n, float* out) {
  const std::byte* scales = page + scale_plane(head_dim);
  for (int slot = slot0; slot < slot0 + n; ++slot, out += head_dim) {
    const std::byte* low = page + static_cast<size_t>(head_dim / 4) * slot;
    const std::byte* high = page + high_plane(head_dim) + static_cast<size_t>(head_dim / 8) * slot;
    int tile = 0;
    for (int begin = 0; begin < head_dim; ++tile) {
      const int d = tile_at(begin, head_dim);
      const float scale = scale_at(scales, tile_count(head_dim), slot, tile);
      const int unit = std::clamp(d, 4, kUnit);
      for (int i = 0; i < d; ++i) {
        const int in_unit = i % unit;
        const auto bits2 = static_cast<int>(low[(begin + i / unit * unit) / 4 + in_unit % (unit / 4)]);
        const auto bits1 = static_cast<int>(high[(begin + i) / 8]);
        const int code = (bits2 >> (2 * (in_unit / (unit / 4))) & 3) | (bits1 >> (i % 8) & 1) << 2;
        out[begin + i] = scale * static_cast<float>(tbq_centroid(kTbq3Grid, code));
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
  ScoreRows rows{.stored = ScoreCodes::kThreeBits, .tiles = true, .head_dim = head_dim};
  const auto* bytes = reinterpret_cast<const uint8_t*>(page);
  const auto slot = static_cast<size_t>(slot0);
  rows.integers = kTbq3Table.data();
  rows.codes = bytes + rows.codes_row() * slot;
  rows.top = bytes + high_plane(head_dim) + rows.top_row() * slot;
  rows.scales = bytes + scale_plane(head_dim) + rows.scales_row() * slot;
  score_rows(rows, n, query, n_q, scores, score_stride);
}

}  // namespace kernels::tbq3_0

#endif  // HWY_ONCE
