// kernels-bench [ISA]: medians of the float kernels on one thread, against reading the same bytes. Equality
// is tested elsewhere (tests/kernels) and spot-checked here before anything is timed.

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

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

bool bench_weights() {
  constexpr int64_t kRows = 8192;
  constexpr int64_t kCols = 4096;
  constexpr int kTokens = 64;
  constexpr int64_t kDrawnRows = 16;
  const auto x = random_floats(kTokens * kCols);
  std::vector<float> y(kTokens * kRows);
  fmt::print("read floor, 64 MiB: {:.1f} GB/s\n", read_floor(64 << 20));
  fmt::print("\nmatmul {} x {}      1 token GB/s   1 token GFLOP/s   {} tokens GFLOP/s\n", kRows, kCols,
             kTokens);
  for (const WeightFormat& format : kernels::weight_formats()) {
    const size_t row_bytes = kCols / format.block_values * format.block_bytes;
    // Few different rows, many times: what is compared is real, what is timed has no business with the values.
    std::vector<std::byte> bytes(kRows * row_bytes);
    std::mt19937 random(2);
    for (int64_t r = 0; r < kDrawnRows; ++r) {
      kernels::testing::random_row(format, kCols, random, bytes.data() + r * row_bytes);
    }
    for (int64_t r = kDrawnRows; r < kRows; ++r) {
      std::memcpy(bytes.data() + r * row_bytes, bytes.data() + r % kDrawnRows * row_bytes, row_bytes);
    }
    const kernels::Matrix w{&format, bytes.data(), kRows, kCols, row_bytes};
    std::vector<float> want(kDrawnRows);
    kernels::ref::matmul(w, 0, kDrawnRows, x.data(), kCols, 1, want.data(), kRows);
    kernels::matmul(w, 0, kRows, x.data(), kCols, 1, y.data(), kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      // Values of about 1: a sum of kCols products is about sqrt(kCols).
      const float right = want[static_cast<size_t>(r % kDrawnRows)];
      if (!(std::fabs(y[static_cast<size_t>(r)] - right) <=
            1e-4F * std::sqrt(static_cast<float>(kCols)) * (1 + std::fabs(right)))) {
        fmt::print(stderr, "kernels-bench: {}: matmul gives {} in row {}, the reference {}\n", format.name,
                   y[static_cast<size_t>(r)], r, right);
        return false;
      }
    }
    const double one = median_s([&] { kernels::matmul(w, 0, kRows, x.data(), kCols, 1, y.data(), kRows); });
    const double many =
        median_s([&] { kernels::matmul(w, 0, kRows / 8, x.data(), kCols, kTokens, y.data(), kRows); });
    fmt::print("  {:<20} {:>14.1f} {:>17.1f} {:>20.1f}\n", format.name,
               static_cast<double>(bytes.size()) / one / 1e9, 2e-9 * kRows * kCols / one,
               2e-9 * kRows / 8 * kCols * kTokens / many);
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
  if (argc > 2 || (argc == 2 && !kernels::force_float_isa(argv[1]))) {
    fmt::print(stderr, "usage: kernels-bench [ISA]   ISA is one of:");
    for (const std::string& isa : kernels::float_isas()) {
      fmt::print(stderr, " {}", isa);
    }
    fmt::print(stderr, "\n");
    return 2;
  }
  fmt::print("{}, one thread\n", kernels::float_isa());
  return bench_weights() && bench_kv() ? 0 : 1;
}
