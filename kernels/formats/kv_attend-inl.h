// Attention over the rows of a KV page, for any format. A format gives a reader, a struct with
//   Reader(page, head_dim)       finds the planes
//   unpack(slot, out) const      the row's values, as load_rows gives them; out is aligned
// Each row is unpacked once for all queries. Float arithmetic throughout.

#include "kernels/formats/kv_columns-inl.h"
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

// Queries whose sums fit into the registers beside four rows.
inline constexpr int kScoreQueries = HWY_TARGET == HWY_AVX3 ? 6 : 2;
// Queries whose weights for four rows do.
inline constexpr int kWeightQueries = HWY_TARGET == HWY_AVX3 ? 4 : 2;

// The running sums of Q queries with four rows, taken apart by recursion so that all of them stay in registers.
// Constructors are not left to the compiler: GCC for Arm compiles those without this namespace's target.
template <int Q>
struct ScoreSums {
  Quad first;
  ScoreSums<Q - 1> rest;

  HWY_INLINE ScoreSums() {}
  // Adds columns of the rows times those of queries `stride` apart; `left` under kLanes: only so many are there.
  HWY_INLINE void add(VF w0, VF w1, VF w2, VF w3, const float* query, size_t stride, int left) {
    first.add(w0, w1, w2, w3, left < kLanes ? load_padded(query, left) : hn::LoadU(FloatTag(), query));
    if constexpr (Q > 1) rest.add(w0, w1, w2, w3, query + stride, stride, left);
  }
  HWY_INLINE void store(float* out, size_t stride) const {
    sum_lanes_of_four(first.r0, first.r1, first.r2, first.r3, out);
    if constexpr (Q > 1) rest.store(out + stride, stride);
  }
};
template <>
struct ScoreSums<0> {
  HWY_INLINE ScoreSums() {}
};

// out[q * stride + r] = <query q, row r> for Q queries [Q x n] and four aligned rows, `pitch` floats apart and
// zero-padded to whole vectors.
template <int Q>
HWY_INLINE void score_four(const float* rows, size_t pitch, const float* query, int n, float* out,
                           size_t stride) {
  const FloatTag df;
  ScoreSums<Q> sums;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sums.add(hn::Load(df, rows + i), hn::Load(df, rows + pitch + i), hn::Load(df, rows + 2 * pitch + i),
             hn::Load(df, rows + 3 * pitch + i), query + i, static_cast<size_t>(n), kLanes);
  }
  if (i < n) {
    sums.add(hn::Load(df, rows + i), hn::Load(df, rows + pitch + i), hn::Load(df, rows + 2 * pitch + i),
             hn::Load(df, rows + 3 * pitch + i), query + i, static_cast<size_t>(n), n - i);
  }
  sums.store(out, stride);
}

// The same for any number of queries.
template <int Q = kScoreQueries>
HWY_INLINE void score_four_all(const float* rows, size_t pitch, const float* query, int n_q, int n,
                               float* out, size_t stride) {
  int q = 0;
  for (; q + Q <= n_q; q += Q) {
    score_four<Q>(rows, pitch, query + static_cast<size_t>(q) * n, n, out + stride * static_cast<size_t>(q),
                  stride);
  }
  if constexpr (Q > 1) {
    score_four_all<(Q == 6 ? 4 : Q / 2)>(rows, pitch, query + static_cast<size_t>(q) * n, n_q - q, n,
                                         out + stride * static_cast<size_t>(q), stride);
  }
}

template <class Reader>
HWY_INLINE void score_page(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                           float* scores, int score_stride) {
  check_head_dim(head_dim);
  const Reader reader(page, head_dim);
  const size_t pitch = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  alignas(64) float rows[4 * kMaxHeadDim];
  std::memset(rows, 0, 4 * pitch * sizeof(float));  // padding, and rows past the last
  const auto stride = static_cast<size_t>(score_stride);
  for (int t = 0; t < n; t += 4) {
    const int n_rows = n - t < 4 ? n - t : 4;
    for (int r = 0; r < n_rows; ++r) {
      reader.unpack(slot0 + t + r, rows + r * pitch);
    }
    if (n_rows == 4) {
      score_four_all(rows, pitch, query, n_q, head_dim, scores + t, stride);
      continue;
    }
    for (int q = 0; q < n_q; ++q) {  // no room for four
      float four[4];
      score_four<1>(rows, pitch, query + static_cast<size_t>(q) * head_dim, head_dim, four, 4);
      std::memcpy(scores + stride * static_cast<size_t>(q) + t, four,
                  sizeof(float) * static_cast<size_t>(n_rows));
    }
  }
}

// What Q queries weigh four rows with, in all lanes; taken apart like ScoreSums.
template <int Q, class D>
struct RowWeights {
  hn::Vec<D> w0, w1, w2, w3;
  RowWeights<Q - 1, D> rest;

  HWY_INLINE RowWeights(D d, const float* weights, size_t stride)
      : w0(hn::Set(d, weights[0])),
        w1(hn::Set(d, weights[1])),
        w2(hn::Set(d, weights[2])),
        w3(hn::Set(d, weights[3])),
        rest(d, weights + stride, stride) {}
  // Adds columns of the rows, in order, to those of sums n apart.
  HWY_INLINE void add(D d, hn::Vec<D> r0, hn::Vec<D> r1, hn::Vec<D> r2, hn::Vec<D> r3, float* acc,
                      int n) const {
    auto sum = hn::MulAdd(w0, r0, hn::LoadU(d, acc));
    sum = hn::MulAdd(w1, r1, sum);
    sum = hn::MulAdd(w2, r2, sum);
    hn::StoreU(hn::MulAdd(w3, r3, sum), d, acc);
    if constexpr (Q > 1) rest.add(d, r0, r1, r2, r3, acc + n, n);
  }
};
template <class D>
struct RowWeights<0, D> {
  HWY_INLINE RowWeights(D /*d*/, const float* /*weights*/, size_t /*stride*/) {}
};

// acc[q * n + i] += weights[q * stride + r] * row r's value i, r ascending, for Q queries, four rows and the columns
// of vectors D from `begin` on; returns the first column left.
template <int Q, class D>
HWY_INLINE int add_four(D d, const float* rows, size_t pitch, const float* weights, size_t stride, int begin,
                        int n, float* acc) {
  const RowWeights<Q, D> all(d, weights, stride);
  const int step = static_cast<int>(hn::Lanes(d));
  int i = begin;
  for (; i + step <= n; i += step) {
    all.add(d, hn::Load(d, rows + i), hn::Load(d, rows + pitch + i), hn::Load(d, rows + 2 * pitch + i),
            hn::Load(d, rows + 3 * pitch + i), acc + i, n);
  }
  return i;
}

template <int Q = kWeightQueries>
HWY_INLINE void add_four_all(const float* rows, size_t pitch, const float* weights, size_t stride, int n_q,
                             int n, float* acc) {
  const hn::CappedTag<float, 8> d8;  // head_dim is a multiple of 8: what whole vectors leave is one of these
  int q = 0;
  for (; q + Q <= n_q; q += Q) {
    const float* w = weights + stride * static_cast<size_t>(q);
    float* sums = acc + static_cast<size_t>(q) * n;
    const int done = add_four<Q>(FloatTag(), rows, pitch, w, stride, 0, n, sums);
    if (done < n) {
      add_four<Q>(d8, rows, pitch, w, stride, done, n, sums);
    }
  }
  if constexpr (Q > 1) {
    add_four_all<Q / 2>(rows, pitch, weights + stride * static_cast<size_t>(q), stride, n_q - q, n,
                        acc + static_cast<size_t>(q) * n);
  }
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
#if HWY_TARGET == HWY_AVX3
  if constexpr (requires { Reader::kByColumns; }) {
    if (head_dim % kBlock == 0) {
      accumulate_columns(reader, head_dim, slot0, n, weights, static_cast<size_t>(weight_stride), n_q, acc);
      return;
    }
  }
#endif
  const FloatTag df;
  const hn::CappedTag<float, 8> d8;
  const size_t pitch = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  alignas(64) float rows[4 * kMaxHeadDim];
  int t = 0;
  for (; t + 4 <= n; t += 4) {
    for (int r = 0; r < 4; ++r) {
      reader.unpack(slot0 + t + r, rows + r * pitch);
    }
    add_four_all(rows, pitch, weights + t, static_cast<size_t>(weight_stride), n_q, head_dim, acc);
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
