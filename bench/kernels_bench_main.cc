// kernels-bench [ISA [DOTS_ISA]]: medians of the kernels on one thread, against reading the same bytes. Equality
// is tested elsewhere (tests/kernels) and spot-checked here before anything is timed.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/dots.h"
#include "kernels/formats/formats.h"
#include "kernels/ops.h"
#include "tests/kernels/random_blocks.h"

namespace {

using kernels::KvFormat;
using kernels::WeightFormat;

// Median seconds of one call, of 11 after a warm-up, each long enough for the clock.
template <class F>
double median_s(const F& call) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const auto once = [&](int n) {
    const double begin = now();
    for (int i = 0; i < n; ++i) {
      call();
    }
    return (now() - begin) / n;
  };
  const int n = std::max(1, static_cast<int>(0.01 / once(1)));
  std::vector<double> samples(11);
  for (double& sample : samples) {
    sample = once(n);
  }
  std::ranges::nth_element(samples, samples.begin() + 5);
  return samples[5];
}

std::vector<float> random_floats(size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

// GB/s of summing `bytes` as 64-bit words: the floor under everything that streams them.
double read_floor(size_t bytes) {
  const std::vector<uint64_t> words(bytes / 8, 3);
  volatile uint64_t sink = 0;
  const double s = median_s([&] {
    uint64_t sums[8] = {};
    for (size_t i = 0; i + 8 <= words.size(); i += 8) {
      for (int k = 0; k < 8; ++k) {
        sums[k] += words[i + k];
      }
    }
    sink = sink + sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
  });
  return static_cast<double>(bytes) / s / 1e9;
}

// Whether y, in rows that repeat every `want.size()`, is what the reference gives, within `tolerance` of a sum of kCols
// products of values of about 1; 0: to the bit.
bool check_rows(const WeightFormat& format, const std::vector<float>& y, const std::vector<float>& want,
                int64_t rows, int64_t cols, float tolerance) {
  for (int64_t r = 0; r < rows; ++r) {
    const float right = want[static_cast<size_t>(r) % want.size()], got = y[static_cast<size_t>(r)];
    const float allowed = tolerance * std::sqrt(static_cast<float>(cols)) * (1 + std::fabs(right));
    if (!(std::fabs(got - right) <= allowed)) {
      fmt::print(stderr, "kernels-bench: {}: matmul gives {} in row {}, the reference {}\n", format.name, got,
                 r, right);
      return false;
    }
  }
  return true;
}

bool bench_weights() {
  constexpr int64_t kRows = 8192;
  constexpr int64_t kCols = 4096;
  constexpr int kTokens = 64;
  constexpr int64_t kDrawnRows = 64;
  const auto x = random_floats(kTokens * kCols);
  std::vector<float> y(kTokens * kRows);
  const double floor = read_floor(64 << 20);
  fmt::print("read floor, 64 MiB: {:.1f} GB/s; integer dots on {}\n", floor, kernels::dots_isa());
  fmt::print(
      "\nmatmul {} x {}   | 1 token, floats: GB/s   of floor | integers: GB/s   of floor | {} tokens, "
      "floats: "
      "GFLOP/s   integers\n",
      kRows, kCols, kTokens);
  for (const WeightFormat& format : kernels::weight_formats()) {
    const size_t row_bytes = kCols / format.block_values * format.block_bytes;
    // Few different rows, many times: what is compared is real, what is timed has no business with the values.
    std::vector<std::byte> bytes(kRows * row_bytes);
    std::mt19937 random(2);
    for (int64_t r = 0; r < kDrawnRows; ++r) {
      kernels::testing::any_row(format, kCols, random, bytes.data() + r * row_bytes);
    }
    for (int64_t r = kDrawnRows; r < kRows; ++r) {
      std::memcpy(bytes.data() + r * row_bytes, bytes.data() + r % kDrawnRows * row_bytes, row_bytes);
    }
    const kernels::Matrix w{&format, bytes.data(), kRows, kCols, row_bytes};
    std::vector<float> want(kDrawnRows);
    kernels::ref::matmul(w, 0, kDrawnRows, x.data(), kCols, 1, want.data(), kRows);
    kernels::matmul(w, 0, kRows, x.data(), kCols, 1, y.data(), kRows);
    if (!check_rows(format, y, want, kRows, kCols, 1e-4F)) {
      return false;
    }
    const double gb = static_cast<double>(bytes.size()) / 1e9, gflop = 2e-9 * kRows / 8 * kCols * kTokens;
    const double one = median_s([&] { kernels::matmul(w, 0, kRows, x.data(), kCols, 1, y.data(), kRows); });
    const double many =
        median_s([&] { kernels::matmul(w, 0, kRows / 8, x.data(), kCols, kTokens, y.data(), kRows); });
    fmt::print("  {:<20} {:>17.1f} {:>10.2f}", format.name, gb / one, gb / one / floor);
    if (const int group = kernels::dot_group(format); group != 0) {
      const int64_t stride = kernels::dot_blocks(kCols);
      std::vector<kernels::DotBlock> q(static_cast<size_t>(kTokens * stride));
      for (int t = 0; t < kTokens; ++t) {
        kernels::quantize_dots(x.data() + t * kCols, kCols, group, q.data() + t * stride);
      }
      const auto dots = [&](int64_t rows, int n) {
        kernels::matmul(w, 0, rows, q.data(), stride, n, y.data(), kRows);
      };
      kernels::ref::matmul(w, 0, kDrawnRows, q.data(), stride, 1, want.data(), kRows);
      dots(kRows, 1);
      if (!check_rows(format, y, want, kRows, kCols, 0)) {
        return false;
      }
      const double one_dots = median_s([&] { dots(kRows, 1); });
      const double many_dots = median_s([&] { dots(kRows / 8, kTokens); });
      fmt::print(" {:>17.1f} {:>10.2f} {:>27.1f} {:>10.1f}\n", gb / one_dots, gb / one_dots / floor,
                 gflop / many, gflop / many_dots);
    } else {
      fmt::print(" {:>56.1f}\n", gflop / many);
    }
  }
  return true;
}

bool bench_kv() {
  constexpr int kHeadDim = 128;
  constexpr int kQueries = 8;
  constexpr int kPages = 512;  // 64K tokens of one KV head
  const auto rows = random_floats(static_cast<size_t>(kernels::kPageTokens) * kHeadDim);
  const auto query = random_floats(kQueries * kHeadDim);
  std::vector<float> scores(kQueries * kernels::kPageTokens);
  std::vector<float> acc(kQueries * kHeadDim);
  fmt::print(
      "\nKV, head_dim {}, {} queries, {} tokens   score ns/row   accumulate ns/row   1 query   write "
      "ns/row\n",
      kHeadDim, kQueries, kPages * kernels::kPageTokens);
  for (const KvFormat& format : kernels::kv_formats()) {
    const size_t page_bytes = format.page_bytes(kHeadDim);
    std::vector<std::byte> storage(page_bytes * kPages + kernels::kPlaneAlign);
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    std::byte* pages =
        storage.data() + (kernels::kPlaneAlign - address % kernels::kPlaneAlign) % kernels::kPlaneAlign;
    const auto write = [&](int page) {
      for (int slot = 0; slot < kernels::kPageTokens; ++slot) {
        format.write_row(rows.data() + slot * kHeadDim, kHeadDim, pages + page * page_bytes, slot);
      }
    };
    for (int page = 0; page < kPages; ++page) {
      write(page);
    }
    const auto score = [&](int n_q) {
      return median_s([&] {
        for (int page = 0; page < kPages; ++page) {
          format.score(pages + page * page_bytes, kHeadDim, 0, kernels::kPageTokens, query.data(), n_q,
                       scores.data(), kernels::kPageTokens);
        }
      });
    };
    const auto accumulate = [&](int n_q) {
      return median_s([&] {
        for (int page = 0; page < kPages; ++page) {
          format.accumulate(pages + page * page_bytes, kHeadDim, 0, kernels::kPageTokens, scores.data(),
                            kernels::kPageTokens, n_q, acc.data());
        }
      });
    };
    const double ns = 1e9 / (kPages * kernels::kPageTokens);
    fmt::print("  {:<40} {:>12.1f} {:>19.1f} {:>4.1f} {:>4.1f} {:>14.1f}\n", format.name,
               score(kQueries) * ns, accumulate(kQueries) * ns, score(1) * ns, accumulate(1) * ns,
               median_s([&] { write(0); }) * 1e9 / kernels::kPageTokens);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 3 || (argc > 1 && !kernels::force_float_isa(argv[1])) ||
      (argc > 2 && !kernels::force_dots_isa(argv[2]))) {
    fmt::print(stderr,
               "usage: kernels-bench [ISA [DOTS_ISA]]   ISA is one of: {}; DOTS_ISA of: {}; \"\": the best\n",
               fmt::join(kernels::float_isas(), " "), fmt::join(kernels::dots_isas(), " "));
    return 2;
  }
  fmt::print("{}, one thread\n", kernels::float_isa());
  return bench_weights() && bench_kv() ? 0 : 1;
}
