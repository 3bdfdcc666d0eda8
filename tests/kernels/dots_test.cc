#include "kernels/dots.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/formats/formats.h"
#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_blocks.h"
#include "tests/kernels/random_rows.h"

using namespace kernels;

namespace {

// Every instruction set but the reference itself.
template <class Body>
void each_dots_isa(const Body& body) {
  for (const std::string& isa : dots_isas()) {
    if (isa != "scalar") {
      CAPTURE(isa);
      REQUIRE(force_dots_isa(isa));
      REQUIRE(dots_isa() == isa);
      body();
    }
  }
  REQUIRE(force_dots_isa(""));
}

std::vector<const WeightFormat*> formats_with_dots() {
  std::vector<const WeightFormat*> found;
  for (const WeightFormat& format : weight_formats()) {
    if (dot_group(format) != 0) {
      found.push_back(&format);
    }
  }
  return found;
}

struct Weights {
  Weights(const WeightFormat& format, int64_t rows, int64_t cols, uint32_t seed) {
    const size_t row_bytes = cols / format.block_values * format.block_bytes;
    bytes.resize(rows * row_bytes);
    std::mt19937 random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      testing::any_row(format, cols, random, bytes.data() + r * row_bytes);
    }
    matrix = {&format, bytes.data(), rows, cols, row_bytes};
  }
  std::vector<std::byte> bytes;  // exactly as long as the matrix, so that a sanitizer sees what reads past it
  Matrix matrix;
};

std::vector<DotBlock> quantized(const std::vector<float>& x, int64_t cols, int n_tokens, int group) {
  std::vector<DotBlock> blocks(dot_blocks(cols) * n_tokens);
  for (int t = 0; t < n_tokens; ++t) {
    quantize_dots(x.data() + t * cols, cols, group, blocks.data() + t * dot_blocks(cols));
  }
  return blocks;
}

void check_dots(const Weights& w, const std::vector<float>& x, int n_tokens) {
  const int64_t rows = w.matrix.rows, cols = w.matrix.cols, stride = dot_blocks(cols), y_stride = rows + 2;
  CAPTURE(w.matrix.format->name);
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(n_tokens);
  const auto blocks = quantized(x, cols, n_tokens, dot_group(*w.matrix.format));
  std::vector<float> want(n_tokens * y_stride, -7.0F), got(want), parts(want);
  ref::matmul(w.matrix, 0, rows, blocks.data(), stride, n_tokens, want.data(), y_stride);
  matmul(w.matrix, 0, rows, blocks.data(), stride, n_tokens, got.data(), y_stride);
  for (int t = 0; t < n_tokens; ++t) {
    for (int64_t r = 0; r < y_stride; ++r) {
      CAPTURE(t);
      CAPTURE(r);
      REQUIRE(got[t * y_stride + r] == want[t * y_stride + r]);
    }
  }
  REQUIRE(std::memcmp(got.data(), want.data(), 4 * got.size()) == 0);
  // In uneven ranges of rows and tokens: the same bits.
  int64_t r = 0;
  for (int64_t step = 1; r < rows; r += step, step = step % 7 + 1) {
    for (int t = 0; t < n_tokens; t += 3) {
      matmul(w.matrix, r, std::min(rows, r + step), blocks.data() + t * stride, stride,
             std::min(3, n_tokens - t), parts.data() + t * y_stride, y_stride);
    }
  }
  REQUIRE(std::memcmp(parts.data(), want.data(), 4 * parts.size()) == 0);
}

}  // namespace

TEST_CASE("integer dots equal the reference to the bit, on every instruction set, however they are split") {
  MESSAGE("best: " << std::string(dots_isa()) << " of " << dots_isas().size());
#if defined(__SANITIZE_ADDRESS__)  // thirty times slower there
  const std::vector<int64_t> blocks_of_row = {1, 3, 8}, rows_of_matrix = {1, 4, 13};
  const std::vector<int> token_counts = {1, 7};
  const int64_t long_row = 512;
#else
  const std::vector<int64_t> blocks_of_row = {1, 2, 3, 4, 5, 7, 8, 13}, rows_of_matrix = {1, 2, 3, 4, 13, 37};
  const std::vector<int> token_counts = {1, 2, 7, 19};
  const int64_t long_row = 4096;
#endif
  each_dots_isa([&] {
    for (const WeightFormat* format : formats_with_dots()) {
      const int block = format->block_values;
      uint32_t seed = 1;
      for (const int64_t n_blocks : blocks_of_row) {
        const int64_t cols = n_blocks * block;
        for (const int64_t rows : rows_of_matrix) {
          const Weights w(*format, rows, cols, ++seed);
          for (const int n_tokens : token_counts) {
            check_dots(w, testing::rough(n_tokens * cols, ++seed), n_tokens);
          }
        }
      }
      const Weights long_rows(*format, 18, long_row, 5);
      check_dots(long_rows, testing::rough(70 * long_row, 6), 70);
      const Weights many_rows(*format, 67, long_row / 2, 5);
      check_dots(many_rows, testing::rough(33 * long_row / 2, 6), 33);
    }
  });
}

TEST_CASE("integer dots overflow nowhere: the largest codes everywhere") {
  each_dots_isa([] {
    for (const WeightFormat* format : formats_with_dots()) {
      for (const int byte : {0x00, 0x7f, 0x80, 0xff, 0x0f, 0xf0, 0x1f, 0x20}) {
        Weights w(*format, 6, 1024, 3);
        // Everything but the factors: those of a row drawn at random, wherever they are.
        for (size_t i = 0; i < w.bytes.size(); ++i) {
          const std::byte kept = w.bytes[i];
          w.bytes[i] = static_cast<std::byte>(byte);
          const size_t at = i % static_cast<size_t>(format->block_bytes);
          const bool edge = at < 4 || at + 4 >= static_cast<size_t>(format->block_bytes);
          w.bytes[i] = edge ? kept : static_cast<std::byte>(byte);
        }
        std::vector<float> x(9 * 1024, 1.0F);
        check_dots(w, x, 9);
        std::ranges::fill(x, -1.0F);
        check_dots(w, x, 9);
        for (size_t i = 0; i < x.size(); ++i) {
          x[i] = (i / 2 + i / 16) % 2 == 0 ? 3.0F : -3.0F;
        }
        check_dots(w, x, 9);
      }
    }
  });
}

TEST_CASE("activations are rounded as the reference rounds them") {
  testing::each_isa([] {
    for (const int64_t n : {32, 64, 224, 256, 288, 1024}) {
      for (const int group : {32, 256}) {
        CAPTURE(n);
        CAPTURE(group);
        auto x = testing::rough(n, static_cast<uint32_t>(n));
        const auto check = [&] {
          std::vector<DotBlock> want(dot_blocks(n)), got(want);
          std::memset(got.data(), 0x5a, sizeof(DotBlock) * got.size());
          ref::quantize_dots(x.data(), n, group, want.data());
          quantize_dots(x.data(), n, group, got.data());
          for (size_t b = 0; b < want.size(); ++b) {
            for (int i = 0; i < kDotValues; ++i) {
              REQUIRE(got[b].q[i] == want[b].q[i]);
            }
            for (int i = 0; i < kDotValues / 16; ++i) {
              REQUIRE(got[b].sums[i] == want[b].sums[i]);
            }
            for (int i = 0; i < kDotValues / 32; ++i) {
              const float d = want[b].d[i];
              REQUIRE((std::isnan(d) ? std::isnan(got[b].d[i]) : got[b].d[i] == d));
            }
          }
          return want;
        };
        check();
        x[3] = -1e30F;
        check();
        std::ranges::fill(x, 0x1p-101F);
        CHECK(check()[0].d[0] == 0.0F);
        std::ranges::fill(x, -0x1p-100F);
        CHECK(check()[0].q[0] == -127);
        std::ranges::fill(x, 0.0F);
        check();
        x[0] = std::numeric_limits<float>::max();
        CHECK(check()[0].q[0] == 127);
        x[n - 1] = HUGE_VALF;
        CHECK(std::isnan(check()[(n - 1) / 256].d[(n - 1) % 256 / 32]));
        x[n - 1] = std::numeric_limits<float>::quiet_NaN();
        CHECK(std::isnan(check()[(n - 1) / 256].d[(n - 1) % 256 / 32]));
        for (int64_t i = 0; i < n; ++i) {  // ties: 0.5, 1.5, ...
          x[i] = (static_cast<float>(i % 200) - 100.0F + 0.5F) * (i % 32 == 0 ? 0.0F : 1.0F);
          x[i] = i % 32 == 0 ? 127.0F : x[i];
        }
        check();
      }
    }
  });
}

TEST_CASE("integer dots are near the exact ones: off by half a step of each activation at most") {
  for (const WeightFormat* format : formats_with_dots()) {
    CAPTURE(format->name);
    const Weights w(*format, 5, 1024, 8);
    const auto x = testing::rough(1024, 9);
    const int group = dot_group(*format);
    const auto blocks = quantized(x, 1024, 1, group);
    std::vector<float> exact(5), got(5), row(1024);
    ref::matmul(w.matrix, 0, 5, x.data(), 1024, 1, exact.data(), 5);
    matmul(w.matrix, 0, 5, blocks.data(), 4, 1, got.data(), 5);
    for (int64_t r = 0; r < 5; ++r) {
      format->dequantize(w.matrix.data + r * w.matrix.row_bytes, 1024, row.data());
      double bound = 0, size = 0;
      for (int i = 0; i < 1024; ++i) {
        bound += 0.5001 * std::fabs(row[i]) * blocks[i / 256].d[i % 256 / 32];
        size += std::fabs(double{row[i]} * x[i]);
      }
      CHECK(std::fabs(got[r] - exact[r]) <= bound + 1e-5 * size);
    }
  }
}
