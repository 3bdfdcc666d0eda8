#include "kernels/cuda/mat_vec.h"

#include <cstring>
#include <random>

#include "kernels/cuda/ops.h"
#include "kernels/dots_ref.h"
#include "tests/kernels/random_blocks.h"
#include "tests/simt/device_rows.h"

using namespace kernels;
using simt::Buffer;
using simt::require;

namespace {

const std::vector<int> kUsed = {3};

std::vector<DotBlock> rounded(const std::vector<float>& x, int rows, int64_t n, int group) {
  std::vector<DotBlock> out(static_cast<size_t>(rows * dot_blocks(n)));
  for (int row = 0; row < rows; ++row) {
    ref::quantize_dots(x.data() + row * n, n, group, out.data() + row * dot_blocks(n));
  }
  return out;
}

}  // namespace

TEST_CASE("activations are rounded to the CPU's bytes") {
  Buffer<int> used("used", kUsed);
  for (const int n : {32, 96, 256, 1568}) {
    for (const int group : {32, 256}) {
      auto x = testing::rough(static_cast<size_t>(3 * n), 20);
      std::fill_n(x.begin() + 2 * n, 32, 0x1p-120F);
      x[static_cast<size_t>(n)] = std::nanf("");
      x[static_cast<size_t>(2 * n) + 8] = n == 96 ? HUGE_VALF : 3e38F;
      Buffer<float> x_on("x", x);
      Buffer<DotBlock> out("out", static_cast<size_t>(3 * dot_blocks(n)));
      require(cuda::quantize_dots(nullptr, {4, used.data()}, x_on.data(), nullptr, n, group, out.data()));
      const auto got = out.values(), want = rounded(x, 3, n, group);
      for (size_t i = 0; i < got.size(); ++i) {
        REQUIRE(std::memcmp(got[i].q, want[i].q, sizeof got[i].q) == 0);
        REQUIRE(std::memcmp(got[i].sums, want[i].sums, sizeof got[i].sums) == 0);
        for (int j = 0; j < 8; ++j) {
          const float a = got[i].d[j], b = want[i].d[j];
          REQUIRE((a == b || (a != a && b != b)));
        }
      }
    }
  }
}

TEST_CASE("every type's product, odd sizes, against the reference") {
  Buffer<int> used("used", kUsed);
  int seen = 0;
  for (const WeightFormat& format : weight_formats()) {
    const bool dots = cuda::has_dots(format.ggml_type);
    if (!dots && !cuda::has_floats(format.ggml_type)) {
      continue;
    }
    ++seen;
    CAPTURE(format.name);
    for (const int blocks : {1, 3, 9}) {
      const int64_t cols = format.block_values > 1 ? int64_t{format.block_values} * blocks
                           : blocks == 3           ? 96
                                                   : 80 * blocks - 69;
      const int rows = 11;
      const size_t row_bytes = static_cast<size_t>(cols / format.block_values * format.block_bytes);
      std::mt19937 random(30 + blocks);
      std::vector<std::byte> data(row_bytes * rows);
      for (int r = 0; r < rows; ++r) {
        testing::any_row(format, cols, random, data.data() + static_cast<size_t>(r) * row_bytes);
      }
      const auto x = testing::rough(static_cast<size_t>(3 * cols), 31), bias = testing::gaussian(rows, 32);
      const auto blocks_of_x = dots ? rounded(x, 3, cols, dot_group(format)) : std::vector<DotBlock>(1);
      Buffer<std::byte> data_on("weights", data);
      Buffer<float> x_on("x", x), bias_on("bias", bias);
      Buffer<DotBlock> dots_on("dots", blocks_of_x);
      const Matrix w{&format, data.data(), rows, cols, row_bytes};
      if (cols % 32 == 0) {
        const std::vector<int> tokens = {10, 0, 7};
        Buffer<int> tokens_on("tokens", tokens);
        Buffer<float> out("out", static_cast<size_t>(3 * cols));
        require(cuda::embed(nullptr, {4, used.data()}, format.ggml_type, data_on.data(), row_bytes,
                            tokens_on.data(), static_cast<int>(cols), out.data()));
        std::vector<float> want(out.size());
        for (size_t i = 0; i < 3; ++i) {
          format.dequantize(data.data() + static_cast<size_t>(tokens[i]) * row_bytes, cols,
                            want.data() + i * static_cast<size_t>(cols));
        }
        REQUIRE(std::memcmp(out.values().data(), want.data(), 4 * want.size()) == 0);
      }
      // Alone, and four at a time with one left out: the same bits.
      std::vector<float> alone;
      for (const int most : {1, 4}) {
        for (const bool reversed : {false, true}) {
          simt::set_reversed(reversed);
          Buffer<float> y("y", static_cast<size_t>((most == 1 ? 1 : 3) * rows));
          cuda::MatVec product{
              .ggml_type = format.ggml_type, .data = data_on.data(), .n_rows = rows, .cols = cols};
          product.row_bytes = row_bytes, product.x = dots_on.data(), product.x_floats = x_on.data();
          product.bias = bias_on.data(), product.y = y.data();
          require(cuda::mat_vec(nullptr, {most, most == 1 ? nullptr : used.data()}, product));
          CHECK(y.unwritten() == 0);
          const std::vector<float> got = y.values();
          for (size_t i = 0; i < got.size(); ++i) {
            const auto t = static_cast<int>(i) / rows, r = static_cast<int>(i) % rows;
            float want = 0;
            std::vector<float> row(static_cast<size_t>(cols));
            format.dequantize(data.data() + static_cast<size_t>(r) * row_bytes, cols, row.data());
            double size = std::fabs(bias[static_cast<size_t>(r)]);
            for (int64_t k = 0; k < cols; ++k) {
              size += std::fabs(double{row[static_cast<size_t>(k)]} * x[static_cast<size_t>(t * cols + k)]);
            }
            if (dots) {
              ref::matmul(w, r, r + 1, blocks_of_x.data() + t * dot_blocks(cols), 0, 1, &want - r, 0);
            } else {
              ref::matmul(w, r, r + 1, x.data() + t * cols, 0, 1, &want - r, 0);
            }
            simt::require_close(got[i], double{want} + bias[static_cast<size_t>(r)], 1e-6, size);
          }
          if (alone.empty()) {
            alone = got;
          }
          REQUIRE(std::memcmp(alone.data(), got.data(), sizeof(float) * alone.size()) == 0);
        }
      }
      simt::set_reversed(false);
    }
  }
  CHECK(seen == static_cast<int>(weight_formats().size()));
}

TEST_CASE("products with a row's experts, whose tokens share their activations") {
  const WeightFormat& format = *find_weight_format(12);
  constexpr int kExperts = 4, kRows = 5, kSlots = 6;
  constexpr int64_t kCols = 512;
  const size_t row_bytes = 288, expert_bytes = row_bytes * kRows;
  std::mt19937 random(40);
  std::vector<std::byte> data(expert_bytes * kExperts);
  for (int r = 0; r < kExperts * kRows; ++r) {
    testing::any_row(format, kCols, random, data.data() + static_cast<size_t>(r) * row_bytes);
  }
  const std::vector<int> expert = {3, 0, 1, 3, 2, 2};
  const auto x = rounded(testing::rough(3 * kCols, 41), 3, kCols, 256);
  Buffer<std::byte> data_on("weights", data);
  Buffer<int> expert_on("expert", expert);
  Buffer<DotBlock> x_on("x", x);
  Buffer<float> y("y", kSlots * kRows);
  cuda::MatVec product{.ggml_type = 12, .data = data_on.data(), .n_rows = kRows, .cols = kCols};
  product.row_bytes = row_bytes, product.expert = expert_on.data(), product.expert_bytes = expert_bytes;
  product.rows_per_x = 2, product.x = x_on.data(), product.y = y.data();
  require(cuda::mat_vec(nullptr, {kSlots, nullptr}, product));
  const std::vector<float> got = y.values();
  for (int slot = 0; slot < kSlots; ++slot) {
    const auto e = static_cast<size_t>(expert[static_cast<size_t>(slot)]);
    const Matrix w{&format, data.data() + e * expert_bytes, kRows, kCols, row_bytes};
    float want[kRows];
    ref::matmul(w, 0, kRows, x.data() + slot / 2 * dot_blocks(kCols), 0, 1, want, 0);
    for (int r = 0; r < kRows; ++r) {
      simt::require_close(got[static_cast<size_t>(slot * kRows + r)], want[r], 1e-5, std::fabs(want[r]) + 10);
    }
  }
  product.data = data_on.data() + 8;
  CHECK(!cuda::mat_vec(nullptr, {1, nullptr}, product).ok());
  product.ggml_type = 4;  // a type that ggml took back
  CHECK(!cuda::mat_vec(nullptr, {1, nullptr}, product).ok());
}
