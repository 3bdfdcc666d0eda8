#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/formats/formats.h"
#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_blocks.h"

using namespace kernels;

namespace {

std::filesystem::path reference_directory() {
  const char* env = std::getenv("AUTORESEARCH_REFERENCE");
  return env != nullptr ? env : AR_SOURCE_DIR "/../shared/reference";
}

std::vector<std::byte> read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> text{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

// The same bits, but one NaN is as good as another.
bool same_values(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) {
      return false;
    }
  }
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("weight formats are found by their ggml type") {
  CHECK(find_weight_format(0)->name == "f32");
  CHECK(find_weight_format(1)->name == "f16");
  CHECK(find_weight_format(2)->name == "q4_0");
  CHECK(find_weight_format(8)->name == "q8_0");
  CHECK(find_weight_format(30)->name == "bf16");
  CHECK(find_weight_format(12)->name == "q4_k");
  CHECK(find_weight_format(4) == nullptr);
}

TEST_CASE("dequantize matches the reference blocks bit for bit") {
  const auto directory = reference_directory() / "blocks";
  if (!std::filesystem::exists(directory / "index.json")) {
    MESSAGE("skipped: no reference blocks in " << directory.string() << " (set AUTORESEARCH_REFERENCE)");
    return;
  }
  for (const WeightFormat& format : weight_formats()) {
    if (format.name == "f32" || format.name == "f16") {
      continue;  // no blocks of theirs
    }
    CAPTURE(format.name);
    const auto row = read_bytes(directory / (std::string(format.name) + ".bin"));
    const auto want_bytes = read_bytes(directory / (std::string(format.name) + ".f32"));
    std::vector<float> want(want_bytes.size() / 4);
    std::memcpy(want.data(), want_bytes.data(), want_bytes.size());
    REQUIRE(want.size() >= 256);
    REQUIRE(row.size() / format.block_bytes * format.block_values == want.size());
    std::vector<float> got(want.size());
    format.dequantize(row.data(), static_cast<int64_t>(got.size()), got.data());
    CHECK(same_bits(got, want));
  }
}

TEST_CASE("dequantize_fast is bit-identical on any bytes, unaligned and of odd lengths") {
  testing::each_isa([] {
    for (const WeightFormat& format : weight_formats()) {
      CAPTURE(format.name);
      for (const int n_blocks : {1, 2, 3, 5, 7, 31, 32, 33, 100, 1021}) {
        const int64_t n = int64_t{n_blocks} * format.block_values;
        std::mt19937 random(n_blocks);
        std::vector<std::byte> bytes(1 + static_cast<size_t>(n_blocks) * format.block_bytes);
        testing::random_bytes(bytes.data(), bytes.size(), random);
        std::vector<float> want(n);
        std::vector<float> got(n);
        format.dequantize(bytes.data() + 1, n, want.data());
        format.dequantize_fast(bytes.data() + 1, n, got.data());
        CHECK((format.block_values == 1 ? same_bits(got, want) : same_values(got, want)));
      }
    }
  });
}

TEST_CASE("quantize rounds within half a step and survives bad values") {
  const auto values = testing::rough(32 * 64, 7);
  const auto n = static_cast<int64_t>(values.size());
  for (const WeightFormat& format : weight_formats()) {
    if (format.quantize == nullptr) {
      continue;
    }
    CAPTURE(format.name);
    const int block = format.block_values == 1 ? 32 : format.block_values;
    const double step = format.name == "f16" ? 1.0 / 2048
                        : format.name == "q8_0"
                            ? 0.5625 / 127 /* half a step, 127 times the scale's own rounding */
                            : 1.0 / 8;
    std::vector<std::byte> row(n / format.block_values * format.block_bytes);
    std::vector<float> back(n);
    format.quantize(values.data(), n, row.data());
    format.dequantize(row.data(), n, back.data());
    for (int64_t begin = 0; begin < n; begin += block) {
      float largest = 0.0F;
      for (int i = 0; i < block; ++i) {
        largest = std::max(largest, std::fabs(values[begin + i]));
      }
      for (int i = 0; i < block; ++i) {
        CHECK(std::fabs(back[begin + i] - values[begin + i]) <= 1.01 * step * largest);
      }
    }
    // A second trip changes nothing: the grid is a fixed point.
    std::vector<std::byte> again(row.size());
    std::vector<float> back2(n);
    format.quantize(back.data(), n, again.data());
    format.dequantize(again.data(), n, back2.data());
    CHECK(same_bits(back, back2));

    if (format.block_values > 1) {
      for (const float bad : {std::nanf(""), HUGE_VALF, 1e-42F, 3e38F, -3e38F}) {
        std::vector<float> one(32, 0.25F);
        one[7] = bad;
        format.quantize(one.data(), 32, row.data());
        format.dequantize(row.data(), 32, back.data());
        for (int i = 0; i < 32; ++i) {
          CHECK(std::isfinite(back[i]));
          CHECK((std::isfinite(bad) || back[i] == 0.0F));
        }
      }
    }
  }
}
