#include "kernels/cuda/gemm.h"

#include <algorithm>
#include <random>

#include "kernels/cuda/mat_vec.h"
#include "kernels/formats/half.h"
#include "tests/kernels/random_blocks.h"
#include "tests/simt/device_rows.h"

using namespace kernels;
using simt::Buffer;
using simt::require;

TEST_CASE("prefill's product of every type, odd sizes") {
  for (const WeightFormat& format : weight_formats()) {
    if (!cuda::has_dots(format.ggml_type) && !cuda::has_floats(format.ggml_type)) {
      continue;
    }
    CAPTURE(format.name);
    // One of them in four tiles, none of them whole.
    const size_t n_rows = format.name == "q4_k" ? 70 : 17, n_tokens = format.name == "q4_k" ? 67 : 9;
    const auto tokens = static_cast<int>(n_tokens);
    Buffer<int> used("used", std::vector{tokens});
    const int64_t cols = format.block_values == 256 ? 256 : 160;
    const size_t row_bytes = static_cast<size_t>(cols / format.block_values * format.block_bytes);
    std::mt19937 random(71);
    std::vector<std::byte> data(row_bytes * n_rows);
    for (size_t r = 0; r < n_rows; ++r) {
      testing::any_row(format, cols, random, data.data() + r * row_bytes);
    }
    const auto x = testing::rough(n_tokens * static_cast<size_t>(cols), 72),
               bias = testing::gaussian(n_rows, 73);
    Buffer<std::byte> data_on("weights", data);
    Buffer<float> x_on("x", x), bias_on("bias", bias), y("y", n_tokens * n_rows);
    Buffer<uint16_t> halves("halves", x.size());
    require(cuda::to_halves(nullptr, {tokens + 1, used.data()}, x_on.data(), nullptr, static_cast<int>(cols),
                            halves.data()));
    cuda::Gemm product{.ggml_type = format.ggml_type,
                       .data = data_on.data(),
                       .n_rows = static_cast<int64_t>(n_rows),
                       .cols = cols};
    product.row_bytes = row_bytes, product.x = halves.data(), product.bias = bias_on.data(),
    product.y = y.data();
    require(cuda::gemm(nullptr, {tokens + 1, used.data()}, product));
    CHECK(y.unwritten() == 0);
    const std::vector<float> got = y.values();
    std::vector<float> row(static_cast<size_t>(cols));
    for (size_t r = 0; r < n_rows; ++r) {
      format.dequantize(data.data() + r * row_bytes, cols, row.data());
      for (size_t t = 0; t < n_tokens; ++t) {
        double want = bias[r], size = std::fabs(bias[r]);
        for (size_t k = 0; k < row.size(); ++k) {
          const double term = double{row[k]} * x[t * row.size() + k];
          want += term;
          size += std::fabs(term);
        }
        simt::require_close(got[t * n_rows + r], want, 0x1p-10, size);
      }
    }
  }
}

TEST_CASE("rows by expert: each gets what a product with its expert's matrix alone gives it") {
  constexpr int kExperts = 4, kSlots = 70, kPerToken = 2, kRows = 17, kCols = 160;
  const WeightFormat& format = *find_weight_format(8);
  const size_t row_bytes = kCols / 32 * 34,
               expert_bytes = row_bytes * kRows + 2;  // as far apart as they please
  std::mt19937 random(74);
  std::vector<std::byte> data(expert_bytes * kExperts);
  for (size_t r = 0; r < kExperts * kRows; ++r) {
    testing::any_row(format, kCols, random, data.data() + r / kRows * expert_bytes + r % kRows * row_bytes);
  }
  std::vector<int> expert(kSlots + 1, 3);  // more than a tile of one, few of others, none of another
  expert[0] = expert[69] = 1, expert[7] = expert[8] = expert[30] = 0;
  expert[kSlots] = -1;  // past those in use
  const auto x = testing::rough(kSlots / kPerToken * kCols, 75);
  std::vector<uint16_t> halves(x.size());
  std::transform(x.begin(), x.end(), halves.begin(), f16_saturated);
  Buffer<std::byte> data_on("weights", data);
  Buffer<int> expert_on("expert", expert), used("used", std::vector{kSlots});
  Buffer<int> groups("groups", cuda::group_ints(kSlots + 1, kExperts));
  Buffer<uint16_t> halves_on("halves", halves);
  Buffer<float> y("y", kSlots * kRows);
  const cuda::Rows slots{kSlots + 1, used.data()};
  cuda::Gemm product{.ggml_type = 8, .data = data_on.data(), .n_rows = kRows, .cols = kCols};
  product.row_bytes = row_bytes, product.x = halves_on.data(), product.rows_per_x = kPerToken;
  product.groups = groups.data(), product.n_expert = kExperts, product.expert_bytes = expert_bytes;
  product.y = y.data();
  require(cuda::group_rows(nullptr, slots, expert_on.data(), kExperts, groups.data()));
  require(cuda::gemm(nullptr, slots, product));
  CHECK(y.unwritten() == 0);
  const std::vector<float> got = y.values();
  for (const int e : {0, 1, 3}) {
    Buffer<std::byte> one("an expert", expert_bytes, data.data() + static_cast<size_t>(e) * expert_bytes);
    Buffer<float> alone("alone", kSlots * kRows);
    cuda::Gemm of_one = product;
    of_one.data = one.data(), of_one.groups = nullptr, of_one.y = alone.data();
    require(cuda::gemm(nullptr, slots, of_one));
    const std::vector<float> want = alone.values();
    for (int i = 0; i < kSlots * kRows; ++i) {
      REQUIRE((expert[static_cast<size_t>(i / kRows)] != e ||
               got[static_cast<size_t>(i)] == want[static_cast<size_t>(i)]));
    }
  }
}
