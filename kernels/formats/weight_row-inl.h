// What a weight format's fast functions are made of: its loader, a struct with
//   kElements      true when every value stands alone (f32, f16, bf16), false for blocks
//   kBytes         bytes per block, or per 32 values that stand alone
//   kParts         absent, or how often 32 values a block holds
//   Block          state of 32 values; open(p) makes it, open(p, part) where there is kParts
//   get<K>(b)      values [kLanes * K, kLanes * (K + 1)) of them
//   one(p)         kElements only: the value at p

#include "kernels/formats/kv_page.h"
#include "kernels/simd-inl.h"

#if defined(KERNELS_FORMATS_WEIGHT_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_WEIGHT_ROW_INL_H_
#undef KERNELS_FORMATS_WEIGHT_ROW_INL_H_
#else
#define KERNELS_FORMATS_WEIGHT_ROW_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

inline constexpr int kPieces = kBlock / kLanes;

template <class L>
constexpr int parts_of() {
  if constexpr (requires { L::kParts; }) {
    return L::kParts;
  } else {
    return 1;
  }
}

template <class L>
HWY_INLINE typename L::Block open_part(const uint8_t* p, int part) {
  if constexpr (requires { L::kParts; }) {
    return L::open(p, part);
  } else {
    (void)part;
    return L::open(p);
  }
}

template <class L, int K = 0>
HWY_INLINE void block_store(const typename L::Block& b, float* out) {
  hn::StoreU(L::template get<K>(b), FloatTag(), out + K * kLanes);
  if constexpr (K + 1 < kPieces) block_store<L, K + 1>(b, out);
}

template <class L, int K = 0>
HWY_INLINE void block_dot(const typename L::Block& b, const float* x, VF& sum) {
  sum = hn::MulAdd(L::template get<K>(b), hn::LoadU(FloatTag(), x + K * kLanes), sum);
  if constexpr (K + 1 < kPieces) block_dot<L, K + 1>(b, x, sum);
}

template <class L, int K = 0>
HWY_INLINE void block_dots(const typename L::Block& b0, const typename L::Block& b1,
                           const typename L::Block& b2, const typename L::Block& b3, const float* x,
                           Quad& sums) {
  sums.add(L::template get<K>(b0), L::template get<K>(b1), L::template get<K>(b2), L::template get<K>(b3),
           hn::LoadU(FloatTag(), x + K * kLanes));
  if constexpr (K + 1 < kPieces) block_dots<L, K + 1>(b0, b1, b2, b3, x, sums);
}

// The last n < 32 values of a row of elements, zero-padded to 32.
template <class L>
HWY_INLINE void load_rest(const uint8_t* p, int n, float* out) {
  for (int i = 0; i < kBlock; ++i) {
    out[i] = i < n ? L::one(p + i * (L::kBytes / kBlock)) : 0.0F;
  }
}

template <class L>
HWY_INLINE void dequantize_row(const uint8_t* row, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kBlock <= n; row += L::kBytes) {
    for (int part = 0; part < parts_of<L>(); ++part, i += kBlock) {
      block_store<L>(open_part<L>(row, part), out + i);
    }
  }
  if constexpr (L::kElements) {
    for (; i < n; ++i, row += L::kBytes / kBlock) {
      out[i] = L::one(row);
    }
  }
}

// The dot products of four rows with x, fused: no value passes through memory.
template <class L>
HWY_INLINE void dot_four(const uint8_t* row, size_t row_bytes, const float* x, int64_t n, float* out) {
  const uint8_t* p1 = row + row_bytes;
  const uint8_t* p2 = p1 + row_bytes;
  const uint8_t* p3 = p2 + row_bytes;
  Quad sums;
  int64_t i = 0;
  for (size_t at = 0; i + kBlock <= n; at += L::kBytes) {
    for (int part = 0; part < parts_of<L>(); ++part, i += kBlock) {
      // Two tiles of four rows ahead: a row is about a page, and the processor's own prefetch ends with the page. Into
      // the L2 cache, since L1 has too few misses under way (f16: 16 GB/s into L1, 20 so).
      constexpr int kIntoL2 = 2;
      const size_t ahead = 8 * row_bytes + at + static_cast<size_t>(part) * (L::kBytes / parts_of<L>());
      __builtin_prefetch(row + ahead, 0, kIntoL2);
      __builtin_prefetch(p1 + ahead, 0, kIntoL2);
      __builtin_prefetch(p2 + ahead, 0, kIntoL2);
      __builtin_prefetch(p3 + ahead, 0, kIntoL2);
      block_dots<L>(open_part<L>(row + at, part), open_part<L>(p1 + at, part), open_part<L>(p2 + at, part),
                    open_part<L>(p3 + at, part), x + i, sums);
    }
  }
  if constexpr (L::kElements) {
    if (i < n) {
      const auto rest = static_cast<int>(n - i);
      const size_t at = static_cast<size_t>(i) * L::kBytes / kBlock;
      alignas(64) float w[4 * kBlock];
      for (int r = 0; r < 4; ++r) {
        load_rest<L>(row + r * row_bytes + at, rest, w + r * kBlock);
      }
      alignas(64) float quads[4 * kLanes];
      sums.store(quads);
      quad_dots<1>(w, kBlock, x + i, 0, rest, quads);
      sums.load(quads);
    }
  }
  out[0] = sum_lanes(sums.r0);
  out[1] = sum_lanes(sums.r1);
  out[2] = sum_lanes(sums.r2);
  out[3] = sum_lanes(sums.r3);
}

template <class L>
HWY_INLINE float dot_one(const uint8_t* row, const float* x, int64_t n) {
  VF sum = hn::Zero(FloatTag());
  int64_t i = 0;
  for (; i + kBlock <= n; row += L::kBytes) {
    for (int part = 0; part < parts_of<L>(); ++part, i += kBlock) {
      block_dot<L>(open_part<L>(row, part), x + i, sum);
    }
  }
  if constexpr (L::kElements) {
    if (i < n) {
      const auto rest = static_cast<int>(n - i);
      alignas(64) float w[kBlock];
      load_rest<L>(row, rest, w);
      int k = 0;
      for (; k + kLanes <= rest; k += kLanes) {
        sum = hn::MulAdd(hn::Load(FloatTag(), w + k), hn::LoadU(FloatTag(), x + i + k), sum);
      }
      if (k < rest) {
        sum = hn::MulAdd(hn::Load(FloatTag(), w + k), load_padded(x + i + k, rest - k), sum);
      }
    }
  }
  return sum_lanes(sum);
}

template <class L>
HWY_INLINE void dot_row_range(const uint8_t* row, size_t row_bytes, int n_rows, const float* x, int64_t n,
                              float* out) {
  int r = 0;
  for (; r + 4 <= n_rows; r += 4) {
    dot_four<L>(row + r * row_bytes, row_bytes, x, n, out + r);
  }
  for (; r < n_rows; ++r) {
    out[r] = dot_one<L>(row + r * row_bytes, x, n);
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_WEIGHT_ROW_INL_H_
