#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/formats/formats.h"

using namespace kernels;

namespace {

// Eight blocks: plain, one outlier, all above zero, one value alone, zeros, scales that are fp16 subnormals, all the
// same, large.
std::vector<float> values() {
  std::vector<float> x(256);
  uint32_t state = 12345;
  for (int i = 0; i < 256; ++i) {
    state = state * 1664525U + 1013904223U;
    const float v = (static_cast<float>(static_cast<int>(state >> 20)) - 2048.0F) / 512.0F;
    const float by_block[] = {v,
                              i % 32 == 7 ? -37.5F : v,
                              std::fabs(v) + 3.0F,
                              i % 32 == 20 ? v : 0.0F,
                              0.0F,
                              v / 65536.0F,
                              1.25F,
                              v * 4096.0F};
    x[i] = by_block[i / 32];
  }
  return x;
}

const WeightFormat* weight_format(std::string_view name) {
  for (const WeightFormat& format : weight_formats()) {
    if (format.name == name) {
      return &format;
    }
  }
  return nullptr;
}

}  // namespace

TEST_CASE("rows are rounded as ggml rounds them") {
  // Lines of "type hex": what ggml's own quantizers (llama.cpp b10515) made of values().
  std::ifstream file(AR_SOURCE_DIR "/tests/data/ggml_blocks.txt");
  const auto x = values();
  std::string type;
  std::string hex;
  int n_types = 0;
  for (; file >> type >> hex; ++n_types) {
    CAPTURE(type);
    const WeightFormat* weights = weight_format(type);
    const KvFormat* kv = find_kv_format(type);
    REQUIRE(weights != nullptr);
    REQUIRE(kv != nullptr);
    std::vector<std::byte> blocks(hex.size() / 2);
    REQUIRE(blocks.size() == 256 / weights->block_values * static_cast<size_t>(weights->block_bytes));
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
    }
    std::vector<float> want(256);
    weights->dequantize(blocks.data(), 256, want.data());

    std::vector<std::byte> page(kv->page_bytes(256));
    kv->write_row(x.data(), 256, page.data(), 77);
    std::vector<float> got(256);
    kv->load_rows(page.data(), 256, 77, 1, got.data());
    for (int i = 0; i < 256; ++i) {
      CAPTURE(i);
      CHECK(got[i] == want[i]);
    }
    if (weights->quantize != nullptr) {
      std::vector<std::byte> row(blocks.size());
      weights->quantize(x.data(), 256, row.data());
      std::vector<float> back(256);
      weights->dequantize(row.data(), 256, back.data());
      CHECK(back == want);
    }
  }
  CHECK(n_types == 7);
}
