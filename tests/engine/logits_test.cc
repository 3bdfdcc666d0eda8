#include <fmt/format.h>

#include "kernels/formats/formats.h"
#include "tests/engine/fixtures.h"

using fixtures::compare;

namespace {

engine::ContextOptions small(const char* k = "f32", const char* v = "f32") {
  engine::ContextOptions options;
  options.n_ctx = 256;
  options.n_threads = 2;
  options.cache_type_k = k;
  options.cache_type_v = v;
  options.activations = "f32";
  return options;
}

}  // namespace

TEST_CASE("logits of the tiny model equal an independent float64 forward pass") {
  const std::string base = AR_SOURCE_DIR "/tests/data/tiny";
  const auto model = fixtures::load(base + ".gguf");
  const auto tokens = fixtures::read_tokens(base + ".json");
  const auto golden = fixtures::read_floats(base + ".logits.f32");
  auto context = fixtures::open(model, small());
  const auto difference = compare(fixtures::logits(*context, tokens), golden);
  MESSAGE("tiny, f32 KV: max error ", difference.max, " of the std");
  CHECK(difference.max < 1e-4);

  // Measured: 6.9e-3 (max), 9.0e-4 (rms).
  auto half = fixtures::open(model, small("f16", "f16"));
  const auto half_difference = compare(fixtures::logits(*half, tokens), golden);
  MESSAGE("tiny, f16 KV: max error ", half_difference.max, ", rms ", half_difference.rms);
  CHECK(half_difference.max < 1.4e-2);
  CHECK(half_difference.rms < 2e-3);
}

TEST_CASE("logits equal llama.cpp's within 1e-3 of their standard deviation") {
  const std::string root = fixtures::reference_path("models");
  if (root.empty()) {
    MESSAGE("skipped: no reference data");
    return;
  }
  const auto tokens = fixtures::read_tokens(root + "/tokens.json");
  for (const std::string name :
       {"llama-f16",    "llama-q8_0",     "llama-q4_0",       "llama-q4_1",     "llama-q5_0", "llama-q5_1",
        "llama-q2_k",   "llama-q3_k_s",   "llama-q4_k_s",     "llama-q5_k_s",   "llama-q6_k", "llama-iq3_s",
        "llama-iq4_nl", "llama-iq4_xs",   "llama31-hd64-f16", "llama-yarn-f16", "qwen2-f16",  "qwen3-f16",
        "qwen3moe-f16", "minimax-m2-f16", "minimax-m2-q3_k_m"}) {
    CAPTURE(name);
    const auto model = fixtures::load(fmt::format("{}/{}.gguf", root, name));
    const auto golden = fixtures::read_floats(fmt::format("{}/{}.logits.f32", root, name));
    auto context = fixtures::open(model, small());
    const auto difference = compare(fixtures::logits(*context, tokens), golden);
    MESSAGE(name, ", f32 KV: max error ", difference.max, ", rms ", difference.rms);
    CHECK(difference.max < 1e-4);  // the bar is 1e-3; measured: 5.6e-6 at most

    auto half = fixtures::open(model, small("f16", "f16"));
    const auto half_difference = compare(fixtures::logits(*half, tokens), golden);
    MESSAGE(name, ", f16 KV: max error ", half_difference.max, ", rms ", half_difference.rms);
    CHECK(half_difference.max < 7e-3);  // measured: 4.2e-3 and 4.3e-4 at most
    CHECK(half_difference.rms < 8e-4);
  }
}
