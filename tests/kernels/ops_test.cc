#include "kernels/ops.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/formats/formats.h"
#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_blocks.h"
#include "tests/kernels/random_rows.h"

using namespace kernels;

namespace {

// A random matrix of one format.
struct Weights {
  Weights(const WeightFormat& format, int64_t rows, int64_t cols, uint32_t seed) {
    const size_t row_bytes = cols / format.block_values * format.block_bytes;
    bytes.resize(rows * row_bytes);
    std::mt19937 random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      testing::random_row(format, cols, random, bytes.data() + r * row_bytes);
    }
    matrix = {&format, bytes.data(), rows, cols, row_bytes};
  }
  std::vector<std::byte> bytes;
  Matrix matrix;
};

void check_matmul(const WeightFormat& format, int64_t rows, int64_t cols, int n_tokens) {
  CAPTURE(format.name);
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(n_tokens);
  const Weights w(format, rows, cols, static_cast<uint32_t>(rows + cols));
  const int64_t x_stride = cols + 3;
  const int64_t y_stride = rows + 2;
  const auto x = testing::rough(n_tokens * x_stride, 9);
  std::vector<float> want(n_tokens * y_stride, -7.0F);
  std::vector<float> got(want);
  ref::matmul(w.matrix, 0, rows, x.data(), x_stride, n_tokens, want.data(), y_stride);
  matmul(w.matrix, 0, rows, x.data(), x_stride, n_tokens, got.data(), y_stride);
  std::vector<float> row(cols);
  for (int64_t r = 0; r < rows; ++r) {
    format.dequantize(w.matrix.data + r * w.matrix.row_bytes, cols, row.data());
    for (int t = 0; t < n_tokens; ++t) {
      double size = 0.0;
      for (int64_t i = 0; i < cols; ++i) {
        size += std::fabs(double{row[i]} * x[t * x_stride + i]);
      }
      REQUIRE(std::fabs(got[t * y_stride + r] - want[t * y_stride + r]) <= 2e-6 * size);
    }
  }
  // Token by token, in uneven row ranges: the same bits, and nothing outside the answer is written.
  std::vector<float> parts(want.size(), -7.0F);
  for (int t = 0; t < n_tokens; ++t) {
    int64_t r = 0;
    for (int64_t step = 1; r < rows; r += step, step = step % 7 + 1) {
      matmul(w.matrix, r, std::min(rows, r + step), x.data() + t * x_stride, x_stride, 1,
             parts.data() + t * y_stride, y_stride);
    }
  }
  for (int t = 0; t < n_tokens; ++t) {
    REQUIRE(parts[t * y_stride + rows] == -7.0F);
    REQUIRE(got[t * y_stride + rows] == -7.0F);
  }
  REQUIRE(std::memcmp(parts.data(), got.data(), 4 * got.size()) == 0);
}

}  // namespace

TEST_CASE("matmul equals the reference and does not depend on how it is split") {
  testing::each_isa([] {
    for (const WeightFormat& format : weight_formats()) {
      const int block = std::max(32, format.block_values);
      for (const int n_tokens : {1, 2, 3, 4, 5, 9, 70}) {
        check_matmul(format, 13, 3 * block, n_tokens);
      }
      check_matmul(format, 5, block, 3);
      check_matmul(format, 9, 2048 + block, 6);  // more columns than one panel
      check_matmul(format, 1, 4096, 2);
      if (format.block_values == 1) {
        for (const int cols : {1, 3, 7, 17, 33, 63, 101, 1025, 1057}) {
          check_matmul(format, 6, cols, 5);
        }
      }
    }
  });
}

TEST_CASE("element-wise ops equal their references at every length") {
  testing::each_isa([] {
    for (const int n : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257, 4096}) {
      CAPTURE(n);
      const auto x = testing::rough(n, n);
      const auto weight = testing::gaussian(n, n + 1);
      std::vector<float> want(n);
      std::vector<float> got(n);
      ref::rms_norm(x.data(), weight.data(), n, 1e-5F, want.data());
      rms_norm(x.data(), weight.data(), n, 1e-5F, got.data());
      for (int i = 0; i < n; ++i) {
        REQUIRE(std::fabs(got[i] - want[i]) <= 1e-6 * std::fabs(want[i]));
      }
      auto in_place = x;
      rms_norm(in_place.data(), weight.data(), n, 1e-5F, in_place.data());
      CHECK(in_place == got);

      want = x;
      got = x;
      ref::swiglu(want.data(), weight.data(), n);
      swiglu(got.data(), weight.data(), n);
      for (int i = 0; i < n; ++i) {
        REQUIRE(std::fabs(got[i] - want[i]) <= 2e-6 * std::fabs(want[i]) + 1e-30);
      }

      got = x;
      add(got.data(), weight.data(), n);
      scale(got.data(), 0.3F, n);
      for (int i = 0; i < n; ++i) {
        REQUIRE(got[i] == doctest::Approx((x[i] + weight[i]) * 0.3F).epsilon(1e-6));
      }

      float largest = x[0];
      for (const float value : x) {
        largest = std::max(largest, value);
      }
      CHECK(reduce_max(x.data(), n) == largest);
      got = x;
      const float sum = exp_sum(got.data(), n, largest);
      double want_sum = 0.0;
      for (int i = 0; i < n; ++i) {
        const double e = std::exp(double{x[i]} - largest);
        want_sum += e;
        REQUIRE(std::fabs(got[i] - e) <= 1e-5 * e + 1e-37);
      }
      CHECK(sum == doctest::Approx(want_sum).epsilon(1e-5));
    }
  });
}

TEST_CASE("the edges of softmax and swiglu") {
  testing::each_isa([] {
    CHECK(reduce_max(nullptr, 0) == -HUGE_VALF);
    CHECK(exp_sum(nullptr, 0, 0.0F) == 0.0F);
    std::vector<float> masked(20, -HUGE_VALF);
    CHECK(reduce_max(masked.data(), 20) == -HUGE_VALF);
    masked[3] = 1.0F;
    CHECK(exp_sum(masked.data(), 20, 1.0F) == 1.0F);
    CHECK(masked[3] == 1.0F);
    CHECK(masked[4] == 0.0F);
    std::vector<float> gate = {-200.0F, 200.0F, -88.0F, 88.0F, 0.0F, -1e30F, 1e30F, 1e-30F};
    const std::vector<float> up(8, 1.0F);
    swiglu(gate.data(), up.data(), 8);
    CHECK(gate[1] == 200.0F);
    CHECK(std::fabs(gate[0]) < 1e-30F);
    CHECK(std::fabs(gate[5]) < 1e-30F);
    CHECK(gate[6] == 1e30F);
    CHECK(gate[4] == 0.0F);
  });
}

TEST_CASE("rope rotates pairs of both kinds") {
  testing::each_isa([] {
    for (const int n_rot : {2, 6, 8, 64, 80, 128}) {
      CAPTURE(n_rot);
      std::vector<float> cos_sin(n_rot);
      for (int i = 0; i < n_rot / 2; ++i) {
        cos_sin[2 * i] = std::cos(0.37F * static_cast<float>(i + 1));
        cos_sin[2 * i + 1] = std::sin(0.37F * static_cast<float>(i + 1));
      }
      const auto head = testing::rough(n_rot + 4, n_rot);
      for (const bool neox : {false, true}) {
        auto want = head;
        auto got = head;
        (neox ? ref::rope_neox : ref::rope_norm)(want.data(), n_rot, cos_sin.data());
        (neox ? rope_neox : rope_norm)(got.data(), n_rot, cos_sin.data());
        for (int i = 0; i < n_rot + 4; ++i) {
          REQUIRE(std::fabs(got[i] - want[i]) <= 1e-5);
        }
        for (int i = n_rot; i < n_rot + 4; ++i) {
          CHECK(got[i] == head[i]);
        }
      }
    }
  });
}

TEST_CASE("instruction sets are forced by name, and an unknown one is refused") {
  const std::string best = float_isa();
  MESSAGE("best: " << best << " of " << float_isas().size());
  CHECK(float_isas().front() == best);
  CHECK(!force_float_isa("AVX9"));
  CHECK(float_isa() == best);
  CHECK(force_float_isa(float_isas().back()));
  CHECK(float_isa() == float_isas().back());
  CHECK(force_float_isa(""));
  CHECK(float_isa() == best);
}
