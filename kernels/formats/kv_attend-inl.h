// Attention over the rows of a KV page, for any format. A format gives a reader, a struct with
//   Reader(page, head_dim)       finds the planes
//   unpack(slot, out) const      the row's values, as load_rows gives them; out is aligned
// Each row is unpacked once for all queries. Float arithmetic throughout.

#include "kernels/formats/kv_page.h"
#include "kernels/simd-inl.h"

#if defined(KERNELS_FORMATS_KV_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_FORMATS_KV_ATTEND_INL_H_
#undef KERNELS_FORMATS_KV_ATTEND_INL_H_
#else
#define KERNELS_FORMATS_KV_ATTEND_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kernels::HWY_NAMESPACE {

// Queries whose running sums fit beside the rows in L1.
inline constexpr int kQueryBlock = 16;

template <class Reader>
HWY_INLINE void score_page(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                           float* scores, int score_stride) {
  check_head_dim(head_dim);
  const Reader reader(page, head_dim);
  const size_t pitch = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  alignas(64) float rows[4 * kMaxHeadDim];
  alignas(64) float quads[kQueryBlock * 4 * kLanes];
  std::memset(rows, 0, 4 * pitch * sizeof(float));  // padding, and rows past the last
  for (int t = 0; t < n; t += 4) {
    const int n_rows = n - t < 4 ? n - t : 4;
    for (int r = 0; r < n_rows; ++r) {
      reader.unpack(slot0 + t + r, rows + r * pitch);
    }
    for (int q0 = 0; q0 < n_q; q0 += kQueryBlock) {
      const int n_block = n_q - q0 < kQueryBlock ? n_q - q0 : kQueryBlock;
      std::memset(quads, 0, sizeof(float) * 4 * kLanes * static_cast<size_t>(n_block));
      quad_dots_all(rows, pitch, query + static_cast<size_t>(q0) * head_dim, head_dim, n_block, head_dim,
                    quads);
      for (int q = 0; q < n_block; ++q) {
        float* out = scores + static_cast<size_t>(q0 + q) * score_stride + t;
        for (int r = 0; r < n_rows; ++r) {
          out[r] = sum_lanes(hn::Load(FloatTag(), quads + (4 * q + r) * kLanes));
        }
      }
    }
  }
}

template <class D>
HWY_INLINE void add_four(D d, const float* rows, size_t pitch, const float* w, int i, float* acc) {
  auto sum = hn::LoadU(d, acc + i);
  sum = hn::MulAdd(hn::Set(d, w[0]), hn::Load(d, rows + i), sum);
  sum = hn::MulAdd(hn::Set(d, w[1]), hn::Load(d, rows + pitch + i), sum);
  sum = hn::MulAdd(hn::Set(d, w[2]), hn::Load(d, rows + 2 * pitch + i), sum);
  sum = hn::MulAdd(hn::Set(d, w[3]), hn::Load(d, rows + 3 * pitch + i), sum);
  hn::StoreU(sum, d, acc + i);
}

template <class D>
HWY_INLINE void add_one(D d, const float* row, float w, int i, float* acc) {
  hn::StoreU(hn::MulAdd(hn::Set(d, w), hn::Load(d, row + i), hn::LoadU(d, acc + i)), d, acc + i);
}

template <class Reader>
HWY_INLINE void accumulate_page(const std::byte* page, int head_dim, int slot0, int n, const float* weights,
                                int weight_stride, int n_q, float* acc) {
  check_head_dim(head_dim);
  const Reader reader(page, head_dim);
  const FloatTag df;
  const hn::CappedTag<float, 8> d8;  // head_dim is a multiple of 8: what whole vectors leave is one of these
  const size_t pitch = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  alignas(64) float rows[4 * kMaxHeadDim];
  int t = 0;
  for (; t + 4 <= n; t += 4) {
    for (int r = 0; r < 4; ++r) {
      reader.unpack(slot0 + t + r, rows + r * pitch);
    }
    for (int q = 0; q < n_q; ++q) {
      const float* w = weights + static_cast<size_t>(q) * weight_stride + t;
      float* sum = acc + static_cast<size_t>(q) * head_dim;
      int i = 0;
      for (; i + kLanes <= head_dim; i += kLanes) {
        add_four(df, rows, pitch, w, i, sum);
      }
      for (; i < head_dim; i += static_cast<int>(hn::Lanes(d8))) {
        add_four(d8, rows, pitch, w, i, sum);
      }
    }
  }
  for (; t < n; ++t) {
    reader.unpack(slot0 + t, rows);
    for (int q = 0; q < n_q; ++q) {
      const float w = weights[static_cast<size_t>(q) * weight_stride + t];
      float* sum = acc + static_cast<size_t>(q) * head_dim;
      int i = 0;
      for (; i + kLanes <= head_dim; i += kLanes) {
        add_one(df, rows, w, i, sum);
      }
      for (; i < head_dim; i += static_cast<int>(hn::Lanes(d8))) {
        add_one(d8, rows, w, i, sum);
      }
    }
  }
}

}  // namespace kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_FORMATS_KV_ATTEND_INL_H_
