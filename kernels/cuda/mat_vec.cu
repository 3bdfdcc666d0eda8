#include "kernels/cuda/mat_vec.h"

#include <string>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/points.cuh"
#include "kernels/cuda/weights.cuh"
#include "src/base/check.h"

namespace kernels::cuda {
namespace {

// ---- Rounding ----

constexpr int kRoundThreads = 128;
constexpr uint32_t kTiny = 27U << 23;  // 2^-100: a group whose largest value is smaller is zeros
constexpr int kSumsAt = offsetof(DotBlock, sums), kScalesAt = offsetof(DotBlock, d);

struct RoundArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const float> x, up;
  int n, group;
  Global<uint8_t> out;
};

// A warp for each block of 256: eight values a lane.
__global__ void __launch_bounds__(kRoundThreads) round_rows(RoundArgs a) {
  const int row = static_cast<int>(blockIdx.y), lane = lane_id();
  const int block = static_cast<int>(blockIdx.x) * (kRoundThreads / kWarpThreads) + warp_id();
  const int n_blocks = (a.n + kDotValues - 1) / kDotValues;
  if (row >= (a.used_rows == nullptr ? a.most_rows : a.used_rows[0]) || block >= n_blocks) {
    return;
  }
  const int first = block * kDotValues + 8 * lane;
  const int64_t at = int64_t{row} * a.n + first;
  float x[8] = {};
  if (first < a.n) {
    load_eight(a.x, a.up, at, x);
  }
  uint32_t largest = 0;
  AR_UNROLL
  for (int i = 0; i < 8; ++i) {
    largest = larger(largest, magnitude_bits(x[i]));
  }
  for (int bits = 1; bits < a.group / 8; bits *= 2) {
    largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, bits));
  }
  const bool codes = largest >= kTiny && largest < kInfinityBits;
  const float most = __uint_as_float(largest);
  const float d = codes ? __fdiv_rn(most, 127.0F) : largest < kTiny ? 0.0F : __uint_as_float(0x7fc00000U);
  const float inverse = codes ? __fdiv_rn(127.0F, most) : 0.0F;
  uint32_t packed[2] = {0, 0};
  int sum = 0;
  AR_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int q = codes ? __float2int_rn(x[i] * inverse) : 0;
    sum += q;
    packed[i / 4] |= (static_cast<uint32_t>(q) & 255U) << (8 * (i % 4));
  }
  const Global<uint8_t> out =
      a.out + (int64_t{row} * n_blocks + block) * static_cast<int64_t>(sizeof(DotBlock));
  store(out + 8 * lane, uint2{packed[0], packed[1]});
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  if (lane % 2 == 0) {
    store(out + kSumsAt + lane, static_cast<int16_t>(sum));
  }
  if (lane % 4 == 0) {
    store(out + kScalesAt + lane, d);
  }
}

// ---- Products ----

constexpr int kThreads = 128;
constexpr int kWarpRows = 2;  // weight rows a warp has at a time: they share the activations it reads
constexpr int kBlockRows = kThreads / kWarpThreads * kWarpRows;

struct MatVecArgs {
  int most_rows;
  Global<const int> used_rows;
  Global<const uint8_t> data;
  int64_t n_rows;
  int cols;
  int64_t row_bytes;
  Global<const int> expert;
  int64_t expert_bytes;
  int rows_per_x;
  Global<const uint8_t> x;
  Global<const float> x_floats, bias;
  Global<float> y;
};

// One pass reads the weights for kXRows output rows, which have one matrix in common (experts: 1).
template <int kXRows, class RowDot>
__device__ __forceinline__ void for_rows(const MatVecArgs& a, RowDot dot) {
  const int used = a.used_rows == nullptr ? a.most_rows : a.used_rows[0];
  const int first = static_cast<int>(blockIdx.y) * kXRows;
  const int64_t row0 = int64_t{blockIdx.x} * kBlockRows + warp_id() * kWarpRows;
  if (first >= used || row0 >= a.n_rows) {
    return;
  }
  Global<const uint8_t> w = a.data + row0 * a.row_bytes;
  if (a.expert != nullptr) {
    w += a.expert[first] * a.expert_bytes;
  }
  // Beyond the last row, and the last output row, the last is computed again.
  const int64_t second = row0 + 1 < a.n_rows ? a.row_bytes : 0;
  int x_row[kXRows];
  AR_UNROLL
  for (int t = 0; t < kXRows; ++t) {
    x_row[t] = smaller(first + t, used - 1) / a.rows_per_x;
  }
  float sums[kXRows][kWarpRows] = {};
  dot(w, second, x_row, sums);
  AR_UNROLL
  for (int t = 0; t < kXRows; ++t) {
    AR_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {
      const float sum = warp_sum(sums[t][r]);
      const int64_t row = row0 + r;
      if (lane_id() == 0 && row < a.n_rows && first + t < used) {
        a.y[(first + t) * a.n_rows + row] = sum + (a.bias == nullptr ? 0.0F : a.bias[row]);
      }
    }
  }
}

// Adds a unit's codes times 32 activations.
template <class Loader>
__device__ __forceinline__ float add_unit(const Unit& u, Global<const uint8_t> x, int first, float result) {
  int sum = 0, min = 0;
  AR_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int at = first + u.at[h];
    const uint4 q = load<uint4>(x + at);
    int dot = __dp4a(static_cast<int>(u.codes[4 * h]), static_cast<int>(q.x), 0);
    dot = __dp4a(static_cast<int>(u.codes[4 * h + 1]), static_cast<int>(q.y), dot);
    dot = __dp4a(static_cast<int>(u.codes[4 * h + 2]), static_cast<int>(q.z), dot);
    dot = __dp4a(static_cast<int>(u.codes[4 * h + 3]), static_cast<int>(q.w), dot);
    if constexpr (Loader::kOffset != 0 || Loader::kMins) {
      const int total = load<int16_t>(x + kSumsAt + at / 8);
      dot -= Loader::kOffset * total;
      min += u.min[h] * total;
    }
    sum += u.scale[h] * dot;
  }
  const float da = load<float>(x + kScalesAt + (first + u.at[0]) / 32 * 4);
  result = fmaf(static_cast<float>(sum), u.d * da, result);
  if constexpr (Loader::kMins) {
    result = fmaf(static_cast<float>(-min), u.dmin * da, result);
  }
  return result;
}

// How many blocks a multiprocessor has at least: left to itself the compiler takes fewer registers, and spills some.
template <class Loader, int kXRows>
__global__ void __launch_bounds__(kThreads, kXRows == 1 ? 6 : 3) dot_rows(MatVecArgs a) {
  for_rows<kXRows>(a, [&](Global<const uint8_t> w, int64_t second, const int(&x_row)[kXRows],
                          float(&sums)[kXRows][kWarpRows]) {
    const int n_units = a.cols / 32;
    const int64_t x_bytes =
        int64_t{(a.cols + kDotValues - 1) / kDotValues} * static_cast<int64_t>(sizeof(DotBlock));
    for (int i = lane_id(); i < n_units; i += kWarpThreads) {
      const int block = i / Loader::kUnits, unit = i % Loader::kUnits;
      const Global<const uint8_t> at = w + int64_t{block} * Loader::kBytes;
      const Unit u[kWarpRows] = {Loader::load(at, unit), Loader::load(at + second, unit)};
      const int first = block * Loader::kValues;
      AR_UNROLL
      for (int t = 0; t < kXRows; ++t) {
        const Global<const uint8_t> x =
            a.x + x_row[t] * x_bytes + first / kDotValues * static_cast<int64_t>(sizeof(DotBlock));
        AR_UNROLL
        for (int r = 0; r < kWarpRows; ++r) {
          sums[t][r] = add_unit<Loader>(u[r], x, first % kDotValues, sums[t][r]);
        }
      }
    }
  });
}

// Q8_0 by eights, four lanes to a block: a warp's accesses are of bytes that follow one another, where units of a whole
// block each would be 34 apart.
template <int kXRows>
__global__ void __launch_bounds__(kThreads) dot_eights(MatVecArgs a) {
  for_rows<kXRows>(a, [&](Global<const uint8_t> w, int64_t second, const int(&x_row)[kXRows],
                          float(&sums)[kXRows][kWarpRows]) {
    const int64_t x_bytes =
        int64_t{(a.cols + kDotValues - 1) / kDotValues} * static_cast<int64_t>(sizeof(DotBlock));
    for (int i = lane_id(); i < a.cols / 8; i += kWarpThreads) {
      uint32_t codes[kWarpRows][2];
      float d[kWarpRows];
      AR_UNROLL
      for (int r = 0; r < kWarpRows; ++r) {
        const Global<const uint8_t> block = w + (r * second + int64_t{i / 4} * Q8_0::kBytes);
        d[r] = half_at(block);
        load_words<2>(block + (2 + i % 4 * 8), codes[r]);
      }
      const int first = 8 * i % kDotValues;
      AR_UNROLL
      for (int t = 0; t < kXRows; ++t) {
        const Global<const uint8_t> x =
            a.x + x_row[t] * x_bytes + 8 * i / kDotValues * static_cast<int64_t>(sizeof(DotBlock));
        const uint2 q = load<uint2>(x + first);
        const float da = load<float>(x + kScalesAt + first / 32 * 4);
        AR_UNROLL
        for (int r = 0; r < kWarpRows; ++r) {
          const int dot = __dp4a(static_cast<int>(codes[r][1]), static_cast<int>(q.y),
                                 __dp4a(static_cast<int>(codes[r][0]), static_cast<int>(q.x), 0));
          sums[t][r] = fmaf(static_cast<float>(dot), d[r] * da, sums[t][r]);
        }
      }
    }
  });
}

// ---- Floats ----

struct F16 {
  using Stored = uint16_t;
  static __device__ float value(uint16_t bits) { return half_to_float(bits); }
};
struct BF16 {
  using Stored = uint16_t;
  static __device__ float value(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
};
struct F32 {
  using Stored = float;
  static __device__ float value(float x) { return x; }
};

// 16 bytes at a time where rows are aligned to that, single values otherwise and at the end.
template <class Element, int kXRows>
__global__ void __launch_bounds__(kThreads) float_rows(MatVecArgs a) {
  using Stored = typename Element::Stored;
  constexpr int kVector = 16 / static_cast<int>(sizeof(Stored));
  for_rows<kXRows>(a, [&](Global<const uint8_t> w, int64_t second, const int(&x_row)[kXRows],
                          float(&sums)[kXRows][kWarpRows]) {
    const bool aligned = (address_of(w) & 15U) == 0 && (second & 15) == 0 && a.cols % kVector == 0;
    const int whole = aligned ? a.cols / kVector * kVector : 0;
    for (int i = kVector * lane_id(); i < whole; i += kVector * kWarpThreads) {
      Stored v[kWarpRows][kVector];
      AR_UNROLL
      for (int r = 0; r < kWarpRows; ++r) {
        const uint4 bits = load<uint4>(w + r * second + i * static_cast<int>(sizeof(Stored)));
        memcpy(v[r], &bits, sizeof bits);
      }
      AR_UNROLL
      for (int t = 0; t < kXRows; ++t) {
        AR_UNROLL
        for (int j = 0; j < kVector; j += 4) {
          const float4 x = load<float4>(a.x_floats + int64_t{x_row[t]} * a.cols + i + j);
          AR_UNROLL
          for (int r = 0; r < kWarpRows; ++r) {
            sums[t][r] = fmaf(Element::value(v[r][j]), x.x, sums[t][r]);
            sums[t][r] = fmaf(Element::value(v[r][j + 1]), x.y, sums[t][r]);
            sums[t][r] = fmaf(Element::value(v[r][j + 2]), x.z, sums[t][r]);
            sums[t][r] = fmaf(Element::value(v[r][j + 3]), x.w, sums[t][r]);
          }
        }
      }
    }
    for (int i = whole + lane_id(); i < a.cols; i += kWarpThreads) {
      AR_UNROLL
      for (int t = 0; t < kXRows; ++t) {
        const float x = a.x_floats[int64_t{x_row[t]} * a.cols + i];
        AR_UNROLL
        for (int r = 0; r < kWarpRows; ++r) {
          const auto at = w + r * second + i * static_cast<int>(sizeof(Stored));
          sums[t][r] = fmaf(Element::value(load<Stored>(at)), x, sums[t][r]);
        }
      }
    }
  });
}

// Eight values a lane at a time.
template <class Loader, int kXRows>
__global__ void __launch_bounds__(kThreads) point_rows(MatVecArgs a) {
  for_rows<kXRows>(a, [&](Global<const uint8_t> w, int64_t second, const int(&x_row)[kXRows],
                          float(&sums)[kXRows][kWarpRows]) {
    constexpr int kEights = Loader::kValues / 8;
    for (int i = lane_id(); i < a.cols / 8; i += kWarpThreads) {
      const Global<const uint8_t> at = w + int64_t{i / kEights} * Loader::kBytes;
      float v[kWarpRows][8], factor[kWarpRows];
      AR_UNROLL
      for (int r = 0; r < kWarpRows; ++r) {
        const Eight eight = Loader::load(at + r * second, i % kEights);
        to_floats<128>(eight.codes[0] ^ 0x80808080U, v[r]);
        to_floats<128>(eight.codes[1] ^ 0x80808080U, v[r] + 4);
        factor[r] = eight.factor;
      }
      AR_UNROLL
      for (int t = 0; t < kXRows; ++t) {
        const Global<const float> from = a.x_floats + (int64_t{x_row[t]} * a.cols + 8 * i);
        const float4 low = load<float4>(from), high = load<float4>(from + 4);
        const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        AR_UNROLL
        for (int r = 0; r < kWarpRows; ++r) {
          float dot = 0;
          AR_UNROLL
          for (int j = 0; j < 8; ++j) {
            dot = fmaf(v[r][j], x[j], dot);
          }
          sums[t][r] = fmaf(factor[r], dot, sums[t][r]);
        }
      }
    }
  });
}

// ---- The tables ----

struct Row {
  uint32_t ggml_type;
  const char* name;
  void (*one)(MatVecArgs);
  void (*four)(MatVecArgs);
};
// clang-format off
const Row kDots[] = {
    {2,  "mat_vec q4_0",   dot_rows<Q4_0, 1>,  dot_rows<Q4_0, 4>},
    {3,  "mat_vec q4_1",   dot_rows<Q4_1, 1>,  dot_rows<Q4_1, 4>},
    {6,  "mat_vec q5_0",   dot_rows<Q5_0, 1>,  dot_rows<Q5_0, 4>},
    {7,  "mat_vec q5_1",   dot_rows<Q5_1, 1>,  dot_rows<Q5_1, 4>},
    {8,  "mat_vec q8_0",   dot_eights<1>,      dot_eights<4>},
    {10, "mat_vec q2_k",   dot_rows<Q2K, 1>,   dot_rows<Q2K, 4>},
    {11, "mat_vec q3_k",   dot_rows<Q3K, 1>,   dot_rows<Q3K, 4>},
    {12, "mat_vec q4_k",   dot_rows<Q4K, 1>,   dot_rows<Q4K, 4>},
    {13, "mat_vec q5_k",   dot_rows<Q5K, 1>,   dot_rows<Q5K, 4>},
    {14, "mat_vec q6_k",   dot_rows<Q6K, 1>,   dot_rows<Q6K, 4>},
    {20, "mat_vec iq4_nl", dot_rows<IQ4NL, 1>, dot_rows<IQ4NL, 4>},
    {23, "mat_vec iq4_xs", dot_rows<IQ4XS, 1>, dot_rows<IQ4XS, 4>},
};
const Row kFloats[] = {
    {0,  "mat_vec f32",  float_rows<F32, 1>,  float_rows<F32, 4>},
    {1,  "mat_vec f16",  float_rows<F16, 1>,  float_rows<F16, 4>},
    {30, "mat_vec bf16", float_rows<BF16, 1>, float_rows<BF16, 4>},
    {16, "mat_vec iq2_xxs", point_rows<IQ2XXS, 1>, point_rows<IQ2XXS, 4>},
    {17, "mat_vec iq2_xs",  point_rows<IQ2XS, 1>,  point_rows<IQ2XS, 4>},
    {18, "mat_vec iq3_xxs", point_rows<IQ3XXS, 1>, point_rows<IQ3XXS, 4>},
    {21, "mat_vec iq3_s",   point_rows<IQ3S, 1>,   point_rows<IQ3S, 4>},
    {22, "mat_vec iq2_s",   point_rows<IQ2S, 1>,   point_rows<IQ2S, 4>},
    {39, "mat_vec mxfp4",   point_rows<MXFP4, 1>,  point_rows<MXFP4, 4>},
};
// clang-format on

template <size_t kCount>
const Row* find(const Row (&rows)[kCount], uint32_t type) {
  for (const Row& row : rows) {
    if (row.ggml_type == type) {
      return &row;
    }
  }
  return nullptr;
}

}  // namespace

base::Result<void> quantize_dots(Stream stream, Rows rows, const float* x, const float* up, int n, int group,
                                 DotBlock* out) {
  AR_CHECK(n % 32 == 0 && (group == 32 || group == kDotValues), "activations in whole groups");
  const RoundArgs args{rows.most, rows.used, x, up, n, group, reinterpret_cast<uint8_t*>(out)};
  constexpr int kWarps = kRoundThreads / kWarpThreads;
  const auto blocks = static_cast<unsigned>((dot_blocks(n) + kWarps - 1) / kWarps);
  return launch("quantize_dots", round_rows, dim3{blocks, static_cast<unsigned>(rows.most), 1}, kRoundThreads,
                0, stream, args);
}

bool has_dots(uint32_t ggml_type) {
  return find(kDots, ggml_type) != nullptr;
}
bool has_floats(uint32_t ggml_type) {
  return find(kFloats, ggml_type) != nullptr;
}

base::Result<void> mat_vec(Stream stream, Rows rows, const MatVec& product) {
  const Row* row = find(kDots, product.ggml_type);
  row = row == nullptr ? find(kFloats, product.ggml_type) : row;
  if (row == nullptr) {
    return base::Error{"weights of ggml type " + std::to_string(product.ggml_type),
                       "the GPU has no product for them", "keep their layers on the CPU (--n-gpu-layers)"};
  }
  if (base::Result<void> aligned = check_weights(product.data); !aligned.ok()) {
    return aligned;
  }
  const MatVecArgs args{rows.most,
                        rows.used,
                        static_cast<const uint8_t*>(product.data),
                        product.n_rows,
                        static_cast<int>(product.cols),
                        static_cast<int64_t>(product.row_bytes),
                        product.expert,
                        static_cast<int64_t>(product.expert_bytes),
                        product.rows_per_x,
                        reinterpret_cast<const uint8_t*>(product.x),
                        product.x_floats,
                        product.bias,
                        product.y};
  const bool one = rows.most == 1 || product.expert != nullptr;
  const auto blocks = static_cast<unsigned>((product.n_rows + kBlockRows - 1) / kBlockRows);
  const auto passes = static_cast<unsigned>(one ? rows.most : (rows.most + 3) / 4);
  return launch(row->name, one ? row->one : row->four, dim3{blocks, passes, 1}, kThreads, 0, stream, args);
}

}  // namespace kernels::cuda
