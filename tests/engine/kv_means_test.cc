#include "src/engine/kv_means.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "src/engine/context_plan.h"
#include "src/engine/kv_calibration.h"
#include "src/engine/rope.h"
#include "tests/engine/fixtures.h"
#include "tests/os/scratch.h"

using engine::KvMeans;
using engine::PartId;

namespace {

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

engine::ContextOptions options(const char* k, const char* v, int n_threads = 2, int n_ubatch = 64) {
  engine::ContextOptions chosen;
  chosen.n_ctx = 768;
  chosen.n_threads = n_threads;
  chosen.n_ubatch = n_ubatch;
  chosen.cache_type_k = k;
  chosen.cache_type_v = v;
  return chosen;
}

KvMeans measured(const std::shared_ptr<const engine::Model>& model) {
  auto means = engine::calibrate_kv_means(model, fixtures::tiny_tokens(1100), 1, options("f16", "f16"), {});
  REQUIRE_MESSAGE(means.ok(), means.failure().to_string());
  return *std::move(means);
}

std::string refusal(std::string_view bytes) {
  const auto parsed = engine::parse_kv_means(bytes, "FILE");
  REQUIRE_FALSE(parsed.ok());
  return parsed.failure().to_string();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// rms difference of logits, in units of the reference's standard deviation.
double distance(const std::vector<float>& got, const std::vector<float>& reference) {
  return fixtures::compare(got, reference).rms;
}

}  // namespace

TEST_CASE(
    "means of K and V: what is written is read; any cut or changed byte, and another model, is refused") {
  const auto model = fixtures::load(kTiny);
  const KvMeans means = measured(model);
  CHECK(means.n_tokens ==
        1100 + 3 - 3 * 4);  // three windows, each with its BOS, the first four rows left out
  CHECK(means.values.size() * sizeof(float) == KvMeans::bytes(model->hp));
  const std::string bytes = engine::write_kv_means(means);
  const auto read = engine::parse_kv_means(bytes, "FILE");
  REQUIRE(read.ok());
  CHECK(read->values == means.values);
  CHECK(read->id == means.id);
  CHECK(engine::check_kv_means(*read, *model, "FILE").ok());
  for (size_t n = 0; n < bytes.size(); n += n < 64 ? 1 : 97) {
    CHECK_FALSE(engine::parse_kv_means(bytes.substr(0, n), "FILE").ok());
  }
  CHECK(has(refusal(bytes.substr(0, 40)), "within its header"));
  CHECK(has(refusal(bytes + "x"), "its header asks for"));
  CHECK(has(refusal("GGUF" + bytes), "no file of means"));
  for (size_t i = 0; i < bytes.size(); i += i < 64 ? 1 : 31) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x40);
    const auto parsed = engine::parse_kv_means(changed, "FILE");
    CAPTURE(i);
    // A count of tokens is anybody's word, and of the fingerprint the model is judge.
    const bool of_model = i >= 32 && i < 40, said = i >= 24 && i < 28;
    CHECK((!parsed.ok() || said || (of_model && !engine::check_kv_means(*parsed, *model, "FILE").ok())));
  }
  const auto other = fixtures::load(AR_SOURCE_DIR "/models/demo-q8_0.gguf");
  const auto foreign = engine::check_kv_means(means, *other, "FILE");
  REQUIRE_FALSE(foreign.ok());
  CHECK(has(foreign.failure().to_string(), "another model"));
}

TEST_CASE("a centered cache: the same function, less error, and the same bits however the model is run") {
  const auto model = fixtures::load(kTiny);
  const auto means = std::make_shared<const KvMeans>(measured(model));
  const auto tokens = fixtures::tiny_tokens(600);
  const auto centered = [&](engine::ContextOptions with) {
    with.kv_center = "on";
    with.kv_means = means;
    return with;
  };
  const auto exact = fixtures::logits(*fixtures::open(model, options("f32", "f32")), tokens);
  const auto same = fixtures::logits(*fixtures::open(model, centered(options("f32", "f32"))), tokens);
  CHECK(distance(same, exact) < 1e-5);
  CHECK_FALSE(fixtures::same_bits(same, exact));  // really stored otherwise
  const auto base = fixtures::logits(*fixtures::open(model, centered(options("q4_0", "tbq3_0"))), tokens);
  CHECK(distance(base, exact) < 0.6);
  for (const int n_ubatch : {1, 7, 512}) {
    auto context =
        fixtures::open(model, centered(options("q4_0", "tbq3_0", n_ubatch == 7 ? 3 : 1, n_ubatch)));
    CHECK(fixtures::same_bits(fixtures::logits(*context, tokens), base));
  }
  std::vector<PartId> everywhere;
  for (int i = 1; i <= 2 * model->hp.n_layer + 1; ++i) {
    everywhere.push_back(PartId::at(i, model->hp.n_layer));
  }
  auto split = fixtures::open(model, centered(options("q4_0", "tbq3_0")), everywhere);
  CHECK(fixtures::same_bits(fixtures::logits(*split, tokens), base));
  // Counted as workspace: they do not grow with the context.
  CHECK(split->info().kv_bytes == fixtures::open(model, options("q4_0", "tbq3_0"))->info().kv_bytes);
  CHECK(fixtures::open(model, centered(options("f16", "f16")))->info().workspace_bytes ==
        fixtures::open(model, options("f16", "f16"))->info().workspace_bytes + KvMeans::bytes(model->hp));
}

TEST_CASE("means of keys are turned as RoPE turns keys: the mean over every position of a context") {
  for (const char* name : {"tests/data/tiny.gguf", "models/demo-q8_0.gguf"}) {
    const auto model = fixtures::load(std::string(AR_SOURCE_DIR "/") + name);
    const engine::HParams& hp = model->hp;
    KvMeans means;
    means.n_layer = hp.n_layer;
    means.heads = hp.n_head_kv;
    means.dim = hp.head_dim;
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    means.values.resize(KvMeans::bytes(hp) / sizeof(float));
    std::ranges::generate(means.values, [&] { return normal(random); });
    const engine::RopeTable rope = engine::make_rope_table(hp, model->rope_factors);
    const auto rotate = hp.rope == engine::RopeKind::kNorm ? kernels::rope_norm : kernels::rope_neox;
    constexpr int kPositions = 300;
    const KvMeans turned = engine::turn_kv_means(means, *model, kPositions);
    const auto dim = static_cast<size_t>(hp.head_dim);
    const float* last =
        means.k(hp.n_layer - 1) + (static_cast<size_t>(hp.n_head_kv) - 1) * dim;  // the last head
    std::vector<double> sum(dim);
    std::vector<float> cos_sin(static_cast<size_t>(hp.n_rot)), key(dim);
    for (int pos = 0; pos < kPositions; ++pos) {
      std::copy_n(last, dim, key.data());
      rope.fill(pos, cos_sin.data());
      rotate(key.data(), hp.n_rot, cos_sin.data());
      std::ranges::transform(key, sum, sum.begin(), [](float k, double s) { return s + k; });
    }
    const float* got = turned.k(hp.n_layer - 1) + (last - means.k(hp.n_layer - 1));
    for (size_t i = 0; i < dim; ++i) {
      CHECK(got[i] == doctest::Approx(sum[i] / kPositions).epsilon(1e-4).scale(1));
    }
  }
}

TEST_CASE("where means come from: measured and kept, found again, replaced where they are stale") {
  const Scratch scratch;
  const std::string path = scratch / "demo.gguf", kept = path + ".kv-means";
  std::filesystem::create_symlink(AR_SOURCE_DIR "/models/demo-q8_0.gguf", path);
  const auto model = fixtures::load(path);
  const auto tokenizer = engine::Tokenizer::from_gguf(model->file, path);
  REQUIRE(tokenizer.ok());
  engine::ContextOptions asked;
  asked.n_ctx = 512;
  const auto get = [&](const std::string& choice) {
    asked.kv_center = choice;
    return engine::KvMeansSource(model, *tokenizer).get(asked);
  };
  CHECK(*get("off") == nullptr);
  const auto first = get("on");
  REQUIRE_MESSAGE(first.ok(), (first.ok() ? "" : first.failure().to_string()));
  CHECK((*first)->n_tokens > 1500);
  const std::string bytes = fixtures::read_text(kept);
  // Kept as before RoPE, which leaves values alone, and is used as turned for the context.
  const auto stored = engine::parse_kv_means(bytes, kept);
  REQUIRE(stored.ok());
  CHECK(engine::turn_kv_means(*stored, *model, 512).id == (*first)->id);
  CHECK(std::equal(stored->v(0), stored->v(0) + stored->dim, (*first)->v(0)));
  CHECK(stored->id != (*first)->id);
  CHECK((*get(kept))->id == (*first)->id);
  const auto put = [](const std::string& to, const std::string& text) {
    std::ofstream(to, std::ios::binary) << text;
  };
  put(kept, bytes.substr(0, bytes.size() - 4));
  CHECK(has(get(kept).failure().to_string(), "its header asks for"));
  CHECK((*get("on"))->id == (*first)->id);  // measured anew, to the bit
  CHECK(fixtures::read_text(kept) == bytes);
  put(kept, "something of somebody's");
  CHECK(has(get("on").failure().to_string(), "no file of means"));
  CHECK(fixtures::read_text(kept) == "something of somebody's");
  CHECK_FALSE(get(scratch / "none").ok());

  // A server that is reconfigured: what the file holds now, as a cold one; what it held, where that will not do.
  engine::KvMeansSource source(model, *tokenizer);
  asked.kv_center = scratch / "named";
  put(asked.kv_center, bytes);
  CHECK((*source.get(asked))->id == (*first)->id);
  engine::KvMeans other = *stored;
  other.values.front() += 1;
  other.seal();
  put(asked.kv_center, engine::write_kv_means(other));
  const uint64_t turned = engine::turn_kv_means(other, *model, 512).id;
  CHECK(turned != (*first)->id);
  CHECK((*source.get(asked))->id == turned);
  put(asked.kv_center, "something of somebody's");
  CHECK((*source.get(asked))->id == turned);
  std::filesystem::remove(asked.kv_center);
  CHECK((*source.get(asked))->id == turned);
}

TEST_CASE(
    "--kv-first-last: the layers at both ends have another type, to the byte, and at most half at each end") {
  const auto model = fixtures::load(kTiny);
  const auto with = [&](const std::string& edges) {
    auto chosen = options("tbq4_0", "tbq3_0");
    chosen.kv_first_last = edges;
    return chosen;
  };
  const int n_layer = model->hp.n_layer;
  const auto plain = engine::plan_context(*model, with("off")),
             none = engine::plan_context(*model, with("f16,0")),
             edged = engine::plan_context(*model, with("q8_0,1"));
  REQUIRE(plain.ok());
  REQUIRE(none.ok());
  REQUIRE(edged.ok());
  CHECK(none->kv.bytes() == plain->kv.bytes());
  const auto page = [&](const char* type) {
    return kernels::find_kv_format(type)->page_bytes(model->hp.head_dim);
  };
  const uint64_t rows = static_cast<uint64_t>(plain->kv.n_pages) * static_cast<uint64_t>(model->hp.n_head_kv);
  CHECK(plain->kv.bytes() == rows * static_cast<uint64_t>(n_layer) * (page("tbq4_0") + page("tbq3_0")));
  CHECK(edged->kv.bytes() ==
        rows * (4 * page("q8_0") + static_cast<uint64_t>(n_layer - 2) * (page("tbq4_0") + page("tbq3_0"))));
  const double k_bits = (2 * 8.5 + (n_layer - 2) * plain->info.k_bits_per_value) / n_layer;
  CHECK(edged->info.k_bits_per_value == doctest::Approx(k_bits));
  CHECK(edged->info.edge_layers == 1);
  const auto tokens = fixtures::tiny_tokens(200);
  CHECK_FALSE(fixtures::same_bits(fixtures::logits(*fixtures::open(model, with("q8_0,1")), tokens),
                                  fixtures::logits(*fixtures::open(model, with("off")), tokens)));
  const auto many = engine::plan_context(*model, with("q8_0," + std::to_string(n_layer / 2 + 1)));
  REQUIRE_FALSE(many.ok());
  CHECK(has(many.failure().to_string(), "use q8_0," + std::to_string(n_layer / 2) + " or less"));
  for (const char* bad : {"", "q8_0", "q8_0,", "q8_0,-1", "q8_0,1x", "q9,1", "on", "q8_0,99999999999"}) {
    CAPTURE(bad);
    CHECK_FALSE(engine::parse_first_last(bad).ok());
  }
}
