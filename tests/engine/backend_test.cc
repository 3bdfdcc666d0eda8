#include "src/engine/backend.h"

#include <fmt/format.h>

#include <cstring>
#include <random>

#include "tests/engine/fixtures.h"

using engine::Part;
using engine::PartId;

namespace {

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

// Long enough for two chunks of attention (512 tokens each) and some of a third.
std::vector<int> long_prompt(int n_vocab, int n = 1100) {
  std::mt19937 random(7);
  std::vector<int> tokens(static_cast<size_t>(n));
  for (int& token : tokens) {
    token = static_cast<int>(random() % static_cast<unsigned>(n_vocab));
  }
  return tokens;
}

engine::ContextOptions options(int n_threads, int n_ubatch, std::string k = "f16", std::string v = "f16") {
  engine::ContextOptions chosen;
  chosen.n_ctx = 1280;
  chosen.n_threads = n_threads;
  chosen.n_ubatch = n_ubatch;
  chosen.cache_type_k = std::move(k);
  chosen.cache_type_v = std::move(v);
  return chosen;
}

}  // namespace

TEST_CASE("part positions and their inverse") {
  CHECK(PartId{Part::kEmbed, 0}.order(3) == 0);
  CHECK(PartId{Part::kAttn, 1}.order(3) == 3);
  CHECK(PartId{Part::kHead, 0}.order(3) == 7);
  for (int i = 0; i <= 7; ++i) {
    CHECK(PartId::at(i, 3).order(3) == i);
  }
}

TEST_CASE("logits do not depend on threads or ubatch, to the bit") {
  const auto model = fixtures::load(kTiny);
  const auto tokens = long_prompt(model->hp.n_vocab);
  for (const auto& pair : {std::pair("f32", "f32"), std::pair("q8_0", "tbq3_0"), std::pair("tbq4_0", "q4_0"),
                           std::pair("q5_1", "iq4_nl")}) {
    const char* k = pair.first;  // a structured binding cannot be captured (clang 14)
    const char* v = pair.second;
    CAPTURE(k);
    const auto base = fixtures::logits(*fixtures::open(model, options(1, 512, k, v)), tokens);
    const bool all = std::string_view(k) == "f32";
    for (const int n_threads : {1, 2, 3}) {
      for (const int n_ubatch : {1, 7, 64, 512}) {
        if (!all && n_ubatch != 64 && n_threads != 2) {
          continue;
        }
        CAPTURE(n_threads);
        CAPTURE(n_ubatch);
        auto context = fixtures::open(model, options(n_threads, n_ubatch, k, v));
        CHECK(fixtures::same_bits(fixtures::logits(*context, tokens), base));
      }
    }
  }
}

TEST_CASE("logits of a mixture of experts do not depend on threads or ubatch, to the bit") {
  for (const std::string name : {"qwen3moe-f16", "minimax-m2-f16", "minimax-m2-q3_k_m"}) {
    const std::string path = fixtures::reference_path("models/" + name + ".gguf");
    if (path.empty()) {
      MESSAGE("skipped: no reference data");
      return;
    }
    CAPTURE(name);
    const auto model = fixtures::load(path);
    const auto tokens = long_prompt(model->hp.n_vocab, 150);
    const auto base = fixtures::logits(*fixtures::open(model, options(1, 512)), tokens);
    for (const int n_threads : {1, 2, 3}) {
      for (const int n_ubatch : {1, 7, 64}) {
        CAPTURE(n_threads);
        CAPTURE(n_ubatch);
        CHECK(fixtures::same_bits(
            fixtures::logits(*fixtures::open(model, options(n_threads, n_ubatch)), tokens), base));
      }
    }
  }
}

TEST_CASE("eval gives the last row of eval_all, however the prompt is cut") {
  const auto model = fixtures::load(kTiny);
  const auto tokens = long_prompt(model->hp.n_vocab, 700);
  const auto all = fixtures::logits(*fixtures::open(model, options(2, 512)), tokens);
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  auto decode_options = options(1, 64);
  decode_options.n_threads_batch = 2;  // two pools
  auto context = fixtures::open(model, decode_options);
  size_t at = 0;
  for (const size_t piece : {100UL, 1UL, 1UL, 500UL, 98UL}) {
    const auto last = context->eval(0, std::span(tokens).subspan(at, piece));
    REQUIRE(last.ok());
    at += piece;
    CHECK(std::memcmp(last->data(), all.data() + (at - 1) * n_vocab, n_vocab * sizeof(float)) == 0);
  }
}

TEST_CASE("two backends alternating at every part give the logits of one, to the bit") {
  for (const std::string& path : {kTiny, fixtures::reference_path("models/llama31-hd64-f16.gguf"),
                                  fixtures::reference_path("models/qwen3moe-f16.gguf"),
                                  fixtures::reference_path("models/minimax-m2-f16.gguf")}) {
    if (path.empty()) {
      MESSAGE("skipped: no reference data");
      continue;
    }
    const auto model = fixtures::load(path);
    const int n_layer = model->hp.n_layer;
    const auto tokens = long_prompt(model->hp.n_vocab, 600);
    const auto whole = fixtures::logits(*fixtures::open(model, options(2, 64)), tokens);
    std::vector<PartId> everywhere;
    for (int i = 1; i <= 2 * n_layer + 1; ++i) {
      const std::vector<PartId> one{PartId::at(i, n_layer)};
      CHECK(
          fixtures::same_bits(fixtures::logits(*fixtures::open(model, options(2, 64), one), tokens), whole));
      everywhere.push_back(PartId::at(i, n_layer));
    }
    auto split = fixtures::open(model, options(2, 64), everywhere);
    CHECK(fixtures::same_bits(fixtures::logits(*split, tokens), whole));
    CHECK(split->info().kv_bytes == fixtures::open(model, options(2, 64))->info().kv_bytes);
  }
  const auto model = fixtures::load(kTiny);
  const std::vector<PartId> backwards{{Part::kFfn, 1}, {Part::kAttn, 1}};
  CHECK_FALSE(engine::Context::open_split(model, options(1, 64), backwards).ok());
}

TEST_CASE("every pair of cache types runs, as near to f32 as its types allow") {
  const auto model = fixtures::load(kTiny);
  const auto tokens = fixtures::read_tokens(AR_SOURCE_DIR "/tests/data/tiny.json");
  const auto golden = fixtures::read_floats(AR_SOURCE_DIR "/tests/data/tiny.logits.f32");
  // rms error in units of the logits' standard deviation; measured as K (V f32) and as V (K f32).
  const std::vector<std::pair<std::string, double>> types = {
      {"f32", 1e-4},   {"f16", 2e-3},   {"bf16", 2e-2}, {"q8_0", 3e-2},   {"q5_1", 0.2},
      {"q5_0", 0.2},   {"q4_1", 0.35},  {"q4_0", 0.35}, {"iq4_nl", 0.35}, {"tbq4_0", 0.35},
      {"tbq3_0", 0.6}, {"tcq4_0", 0.3}, {"tcq3_0", 0.5}};
  REQUIRE(types.size() == kernels::kv_formats().size());
  for (const auto& key_type : types) {
    for (const auto& value_type : types) {
      const auto& k = key_type.first;
      const auto& v = value_type.first;
      const double k_bound = key_type.second, v_bound = value_type.second;
      CAPTURE(k);
      CAPTURE(v);
      const auto difference =
          fixtures::compare(fixtures::logits(*fixtures::open(model, options(2, 64, k, v)), tokens), golden);
      if (k == v) {
        MESSAGE(k, "/", v, ": rms ", difference.rms);
      }
      CHECK(difference.rms < k_bound + v_bound);
      if (k_bound > 2e-2 || v_bound > 2e-2) {
        CHECK(difference.rms > 1e-3);  // really quantized
      }
    }
  }
}

TEST_CASE("a forked sequence continues as its source would, and leaves it alone") {
  const auto model = fixtures::load(kTiny);
  const auto tokens = long_prompt(model->hp.n_vocab, 300);
  auto two = options(2, 64);
  two.n_seqs = 2;
  auto context = fixtures::open(model, two);
  const auto whole = fixtures::logits(*fixtures::open(model, options(2, 64)), tokens);
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const auto is_row = [&](std::span<const float> got, size_t row) {
    return std::memcmp(got.data(), whole.data() + row * n_vocab, n_vocab * sizeof(float)) == 0;
  };
  REQUIRE(context->eval(0, std::span(tokens).first(200)).ok());
  context->fork(0, 1, 150);
  const std::vector<int> other(20, 3);
  REQUIRE(context->eval(1, other).ok());
  const auto rest = context->eval(0, std::span(tokens).subspan(200));
  REQUIRE(rest.ok());
  CHECK(is_row(*rest, 299));
  context->truncate(1, 150);
  const auto again = context->eval(1, std::span(tokens).subspan(150));
  REQUIRE(again.ok());
  CHECK(is_row(*again, 299));
}

TEST_CASE("pages can be read, written back and copied") {
  const auto model = fixtures::load(kTiny);
  auto backend = engine::make_cpu_backend();
  engine::KvPlan plan;
  plan.n_pages = 2;
  const auto* f16 = kernels::find_kv_format("f16");
  plan.layers.assign(2, engine::KvLayer{f16, f16, 2, 32, 32, 2});
  CHECK(plan.bytes() == 2 * 2 * 2 * 128 * 32 * 2 * 2);
  const engine::Segment parts{{Part::kAttn, 1}, {Part::kHead, 0}};
  const auto need = backend->plan(*model, parts, plan, {});
  REQUIRE(need.ok());
  CHECK(need->kv == plan.bytes() / 2);  // one layer of two
  REQUIRE(backend->bind(model, parts).ok());
  auto session = backend->open(plan, {});
  REQUIRE(session.ok());
  std::vector<std::byte> written(2 * 2 * 128 * 32 * 2), read(written.size());
  std::mt19937 random(1);
  for (std::byte& byte : written) {
    byte = static_cast<std::byte>(random());
  }
  REQUIRE((*session)->kv_rows(1, 0, written, engine::CopyDirection::kFromHost).ok());
  const engine::PageCopy copy{0, 1};
  REQUIRE((*session)->kv_copy({&copy, 1}).ok());
  REQUIRE((*session)->kv_rows(1, 1, read, engine::CopyDirection::kToHost).ok());
  CHECK(read == written);
  CHECK_FALSE((*session)->kv_rows(0, 0, read, engine::CopyDirection::kToHost).ok());
  CHECK_FALSE((*session)->kv_rows(1, 2, read, engine::CopyDirection::kToHost).ok());
  read.pop_back();
  CHECK_FALSE((*session)->kv_rows(1, 1, read, engine::CopyDirection::kToHost).ok());
}
