#include "src/study/memory_estimate.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "src/os/host.h"
#include "tests/gguf/build_gguf.h"

using study::BackendKind;
using study::HostCapacity;
using study::MemoryEstimate;
using study::MemorySettings;
using study::ModelShape;

namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr double kMiB = 1 << 20;

bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// Metadata of a model with these numbers, and one tensor of 1 MiB in each of two layers.
fixtures::GgufBuilder model_file(const std::string& architecture, uint32_t layers, uint32_t heads,
                                 uint32_t kv_heads, uint32_t head_dim, uint32_t n_embd) {
  fixtures::GgufBuilder file;
  file.text("general.architecture", architecture);
  file.u32(architecture + ".block_count", layers).u32(architecture + ".embedding_length", n_embd);
  file.u32(architecture + ".attention.head_count", heads);
  file.u32(architecture + ".attention.head_count_kv", kv_heads);
  file.u32(architecture + ".attention.key_length", head_dim);
  file.u32(architecture + ".attention.value_length", head_dim);
  file.u32(architecture + ".context_length", 196608);
  file.u32(architecture + ".vocab_size", 200064);
  return file;
}

ModelShape shape_of(const fixtures::GgufBuilder& file) {
  std::string bytes = file.build();
  auto parsed = gguf::parse(fixtures::bytes_of(bytes), "test.gguf");
  REQUIRE(parsed.ok());
  auto shape = study::model_shape(*parsed, "test.gguf");
  REQUIRE(shape.ok());
  return *shape;
}

ModelShape minimax() {
  return shape_of(model_file("minimax-m2", 62, 48, 8, 128, 3072));
}

double kv_mib(const ModelShape& shape, uint64_t n_ctx, std::string_view k, std::string_view v) {
  auto bytes = shape.kv_bytes(n_ctx, k, v);
  REQUIRE(bytes.has_value());
  return static_cast<double>(*bytes) / kMiB;
}

MemorySettings settings(uint64_t n_ctx) {
  MemorySettings result;
  result.n_ctx = n_ctx;
  return result;
}

HostCapacity host_of(uint64_t gib) {
  HostCapacity host;
  host.memory = gib * kGiB;
  host.floor = kGiB;
  return host;
}

// A study of this text over this model, and a place to write it.
struct Workplace {
  std::string directory;
  Workplace() {
    char path[] = "/tmp/memory-estimate-XXXXXX";
    REQUIRE(::mkdtemp(path) != nullptr);
    directory = path;
  }
  ~Workplace() { std::filesystem::remove_all(directory); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::string path = directory + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
};

study::Study study_of(const std::string& model, const std::string& backend = "") {
  std::string text = "study: s\nmodel: " + model + "\nbackend:\n  kind: llama-server\n" + backend +
                     "axes:\n  ctx_size: {values: [4096, 65536, 1048576], default: 65536}\n"
                     "  cache_type_k: {values: [f16, q8_0], default: f16}\n"
                     "  mlock: {values: [false, true], default: false}\n"
                     "objective:\n  maximize: [decode_tps]\nsearch: {max_trials: 3}\n"
                     "probes:\n  quality: off\n  needle: off\n";
  auto parsed = study::parse_space_file(text, "test.yaml");
  if (const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed)) {
    FAIL(errors->to_string());
  }
  return std::get<study::Study>(parsed);
}

}  // namespace

TEST_CASE("bytes of one row: blocks as each format has them") {
  using study::kv_row_bytes;
  CHECK(kv_row_bytes("f32", 128) == 512);
  CHECK(kv_row_bytes("f16", 128) == 256);
  CHECK(kv_row_bytes("q8_0", 128) == 136);
  CHECK(kv_row_bytes("q5_1", 128) == 96);
  CHECK(kv_row_bytes("q5_0", 128) == 88);
  CHECK(kv_row_bytes("q4_1", 128) == 80);
  CHECK(kv_row_bytes("q4_0", 128) == 72);
  CHECK(kv_row_bytes("iq4_nl", 128) == 72);
  CHECK(kv_row_bytes("tbq4_0", 128) == 66);
  CHECK(kv_row_bytes("tbq3_0", 128) == 50);
  CHECK(kv_row_bytes("tbq4_0", 64) == 34);
  CHECK(kv_row_bytes("tbq3_0", 64) == 26);
  CHECK(kv_row_bytes("tbq4_0", 80) == 44);  // tiles of 64 and 16
  CHECK(kv_row_bytes("tbq3_0", 256) == 100);
  CHECK(kv_row_bytes("tcq4_0", 128) == 66);
  CHECK(kv_row_bytes("tcq3_0", 80) == 34);
  CHECK(kv_row_bytes("q4_0", 80) == 46);  // a last block that is not full: its codes, and a whole scale
  CHECK(kv_row_bytes("f32", UINT64_MAX) == UINT64_MAX);
  CHECK_FALSE(kv_row_bytes("q3_9", 128).has_value());
}

TEST_CASE("MiniMax-M2.5: the design's own figures") {
  ModelShape shape = minimax();
  REQUIRE(shape.plain_kv);
  CHECK(kv_mib(shape, 65536, "q4_0", "q4_0") == 4464.0);
  CHECK(kv_mib(shape, 16384, "f16", "f16") == 3968.0);
  CHECK(kv_mib(shape, 100096, "tbq4_0", "tbq3_0") == doctest::Approx(5492.33).epsilon(1e-6));
  CHECK(kv_mib(shape, 100000, "tbq4_0", "tbq3_0") == kv_mib(shape, 100096, "tbq4_0", "tbq3_0"));
  CHECK_FALSE(shape.kv_bytes(4096, "f16", "what").has_value());
  // The first and last two layers of 62 as q8_0; all of them at most.
  CHECK(shape.kv_bytes(4096, "tbq4_0", "tbq3_0", "q8_0", 2) ==
        uint64_t{4096} * 8 * (58 * (66 + 50) + 4 * (136 + 136)));
  CHECK(shape.kv_bytes(4096, "f16", "f16", "q8_0", 31) == shape.kv_bytes(4096, "q8_0", "q8_0"));
  // An absurd context does not wrap around.
  CHECK(shape.kv_bytes(uint64_t{1} << 60, "f16", "f16") == std::numeric_limits<uint64_t>::max());
}

TEST_CASE("layers that keep no KV, and those that may keep less, forbid nothing") {
  ModelShape plain = shape_of(model_file("qwen3", 4, 8, 2, 128, 1024));
  CHECK(plain.plain_kv);
  auto windowed = model_file("qwen3", 4, 8, 2, 128, 1024);
  windowed.u32("qwen3.attention.sliding_window", 4096);
  CHECK_FALSE(shape_of(windowed).plain_kv);
  CHECK_FALSE(shape_of(model_file("gemma3", 4, 8, 2, 128, 1024)).plain_kv);

  fixtures::GgufBuilder hybrid;
  hybrid.text("general.architecture", "lfm2").u32("lfm2.block_count", 3).u32("lfm2.embedding_length", 512);
  hybrid.u32("lfm2.attention.head_count", 8);
  std::string heads;
  for (uint32_t n : {0U, 4U, 0U}) {
    fixtures::GgufBuilder::number(heads, n);
  }
  hybrid.array("lfm2.attention.head_count_kv", 4, 3, heads);
  ModelShape shape = shape_of(hybrid);
  REQUIRE(shape.layers.size() == 3);
  CHECK(shape.layers[0].heads == 0);
  CHECK(shape.layers[1].heads == 4);
  CHECK(shape.layers[1].dim_k == 64);
  CHECK(kv_mib(shape, 1024, "f16", "f16") == 1.0);

  MemoryEstimate estimate =
      study::estimate_memory(shape, settings(uint64_t{1} << 40), BackendKind::kTbqServer, false);
  CHECK(estimate.kv > 0);
  CHECK(estimate.least == 0);
  CHECK(study::why_it_cannot_fit(estimate, settings(uint64_t{1} << 40), host_of(1)).empty());
}

TEST_CASE("numbers that no model has are an error, and missing ones are no guess") {
  auto bad = model_file("qwen3", 4'000'000'000, 8, 2, 128, 1024);
  std::string bytes = bad.build();
  auto parsed = gguf::parse(fixtures::bytes_of(bytes), "bad.gguf");
  REQUIRE(parsed.ok());
  auto shape = study::model_shape(*parsed, "bad.gguf");
  REQUIRE_FALSE(shape.ok());
  CHECK(mentions(shape.failure().to_string(), "qwen3.block_count"));
  fixtures::GgufBuilder nothing;
  nothing.tensor("x", {32}, 0, std::string(128, 'x'));
  ModelShape bare = shape_of(nothing);
  CHECK(bare.weight_bytes == 128);
  CHECK_FALSE(bare.kv_bytes(4096, "f16", "f16").has_value());
  CHECK(study::estimate_memory(bare, settings(1 << 20), BackendKind::kTbqServer, false).least == 0);
}

TEST_CASE("least: mapped weights may be dropped; locked, copied and llama.cpp's on a GPU may not") {
  ModelShape shape = minimax();
  shape.weight_bytes = 95 * kGiB;
  shape.layer_bytes.assign(62, shape.weight_bytes / 62);
  MemorySettings asked = settings(16384);
  auto least = [&](BackendKind kind, bool gpu) {
    return study::estimate_memory(shape, asked, kind, gpu).least;
  };
  const uint64_t kv = *shape.kv_bytes(16384, "f16", "f16");
  CHECK(least(BackendKind::kLlamaServer, false) >= kv);
  CHECK(least(BackendKind::kLlamaServer, false) < kv + kGiB);
  asked.n_gpu_layers = 1000;
  CHECK(least(BackendKind::kLlamaServer, false) < kv + kGiB);  // no GPU: they stay mapped
  CHECK(least(BackendKind::kLlamaServer, true) > kv + 94 * kGiB);
  CHECK(least(BackendKind::kTbqServer, true) < kv + kGiB);
  asked.n_gpu_layers = 31;
  CHECK(least(BackendKind::kLlamaServer, true) > kv + 47 * kGiB);
  CHECK(least(BackendKind::kLlamaServer, true) < kv + 49 * kGiB);
  asked.n_gpu_layers = {};
  asked.mlock = true;
  CHECK(least(BackendKind::kTbqServer, false) > kv + 89 * kGiB);
  CHECK(least(BackendKind::kTbqServer, false) < kv + 90 * kGiB);  // some tensors may be left out
  asked.mlock = false;
  asked.mmap = false;
  CHECK(least(BackendKind::kTbqServer, false) > kv + 89 * kGiB);
  CHECK(least(BackendKind::kTbqServer, false) < kv + 90 * kGiB);
  asked.moved = true;
  CHECK(least(BackendKind::kTbqServer, false) == 0);
  MemoryEstimate all = study::estimate_memory(shape, asked, BackendKind::kTbqServer, false);
  CHECK(all.total() > 95 * kGiB + kv);
  // Without flash attention the scores of a ubatch are materialised: 48 heads x 512 x 16384 floats.
  MemorySettings slow = asked;
  slow.flash_attn = false;
  auto reserved = [&](const MemorySettings& with) {
    return study::estimate_memory(shape, with, BackendKind::kLlamaServer, false).workspace;
  };
  CHECK(reserved(slow) - reserved(asked) == uint64_t{48} * 512 * 16384 * 4);
}

TEST_CASE("the bundled server's workspace is what it says itself, the experts' part included") {
  auto experts = model_file("minimax-m2", 62, 48, 8, 128, 3072);
  experts.u32("minimax-m2.expert_count", 256).u32("minimax-m2.expert_used_count", 8);
  experts.u32("minimax-m2.feed_forward_length", 1536).u32("minimax-m2.expert_feed_forward_length", 1536);
  experts.u32("minimax-m2.rope.dimension_count", 64);
  auto dense = model_file("qwen3", 36, 32, 8, 128, 4096);
  dense.u32("qwen3.feed_forward_length", 12288);
  struct Row {
    const ModelShape shape;
    uint64_t n_ubatch, n_threads, n_ctx;
    double bytes;  // workspace_bytes of tbq-server's /props
  };
  const ModelShape moe = shape_of(experts), plain = shape_of(dense);
  CHECK(moe.n_expert == 256);
  CHECK(moe.n_expert_used == 8);
  CHECK(moe.n_ff == 8 * 1536);
  CHECK(plain.n_expert_used == 0);
  for (const Row& row : {Row{moe, 512, 20, 65536, 187344000}, Row{moe, 512, 1, 4096, 169059200},
                         Row{moe, 128, 10, 98304, 74638976}, Row{moe, 2048, 20, 16384, 605344896},
                         Row{plain, 512, 8, 32768, 110973952 + 4.0 * 32 * (200064 - 151936)}}) {
    MemorySettings asked = settings(row.n_ctx);
    asked.n_ubatch = row.n_ubatch;
    asked.n_threads = row.n_threads;
    const MemoryEstimate ours = study::estimate_memory(row.shape, asked, BackendKind::kTbqServer, false);
    CHECK(static_cast<double>(ours.workspace) == doctest::Approx(row.bytes).epsilon(1e-3));
  }
  // Quantized weights: activations are kept rounded too.
  auto demo = study::load_model_shape(AR_SOURCE_DIR "/models/demo-q8_0.gguf");
  REQUIRE(demo.ok());
  REQUIRE(demo->has_value());
  CHECK((*demo)->n_dot_groups == 1);
  for (const Row& row : {Row{**demo, 512, 1, 4096, 6638144}, Row{**demo, 128, 2, 8192, 2324608}}) {
    MemorySettings asked = settings(row.n_ctx);
    asked.n_ubatch = row.n_ubatch;
    asked.n_threads = row.n_threads;
    const MemoryEstimate ours = study::estimate_memory(row.shape, asked, BackendKind::kTbqServer, false);
    CHECK(static_cast<double>(ours.workspace) == doctest::Approx(row.bytes).epsilon(1e-2));
  }
  // Copies of sink and tail in f16: as tbq-server says (kv_bytes), 4 slots and 1, both sides quantized and one.
  struct Copies {
    uint64_t n_ctx, n_seqs, sink, tail;
    const char *k, *v;
    uint64_t pages;  // of 128 tokens in f16
  };
  for (const Copies& row : {Copies{4096, 1, 0, 0, "q4_0", "q4_0", 0},
                            {4096, 1, 4, 128, "q4_0", "tbq3_0", 4},
                            {4096, 4, 4, 128, "q4_0", "q4_0", 16},
                            {256, 1, 0, 256, "q4_0", "q4_0", 2},
                            {4096, 1, 129, 0, "q4_0", "q4_0", 2},
                            {4096, 1, 4, 128, "f16", "bf16", 0}}) {
    MemorySettings asked = settings(row.n_ctx);
    asked.n_seqs = row.n_seqs;
    asked.cache_type_k = row.k;
    asked.cache_type_v = row.v;
    const MemoryEstimate without = study::estimate_memory(**demo, asked, BackendKind::kTbqServer, false);
    asked.kv_sink = row.sink;
    asked.kv_tail = row.tail;
    const MemoryEstimate with = study::estimate_memory(**demo, asked, BackendKind::kTbqServer, false);
    CHECK(with.kv - without.kv == *(*demo)->kv_bytes(256, "f16", "f16") / 2 * row.pages);
    CHECK(with.least - without.least == with.kv - without.kv);
    CHECK(study::estimate_memory(**demo, asked, BackendKind::kLlamaServer, false).kv == without.kv);
  }
  // 8 experts' answers of 3072 values for 512 tokens are 48 MiB; llama.cpp has them twice, weighted too.
  ModelShape without = moe;
  without.n_expert_used = 0;
  auto workspace = [](const ModelShape& shape, BackendKind kind) {
    return study::estimate_memory(shape, settings(4096), kind, false).workspace;
  };
  MemorySettings centered = settings(4096);  // 62 layers of 8 heads of 128 floats, of K and of V
  centered.kv_center = true;
  CHECK(study::estimate_memory(moe, centered, BackendKind::kTbqServer, false).workspace ==
        workspace(moe, BackendKind::kTbqServer) + 62 * 8 * 256 * 4);
  CHECK(workspace(moe, BackendKind::kLlamaServer) - workspace(without, BackendKind::kLlamaServer) ==
        96 << 20);
  const uint64_t ours = workspace(moe, BackendKind::kTbqServer);
  CHECK(ours - workspace(without, BackendKind::kTbqServer) >= 48 << 20);
  CHECK(ours < 200 << 20);
}

TEST_CASE("only what exceeds memory, swap and GPUs together is forbidden") {
  ModelShape shape = minimax();
  MemorySettings asked = settings(524288);  // 124 GiB of f16 KV
  MemoryEstimate estimate = study::estimate_memory(shape, asked, BackendKind::kTbqServer, false);
  CHECK(estimate.kv == 124 * kGiB);
  HostCapacity host = host_of(120);
  std::string why = study::why_it_cannot_fit(estimate, asked, host);
  for (const char* part : {"124.0", "524288 tokens of f16/f16", "120.0", "1.00 GiB stay free"}) {
    CHECK_MESSAGE(mentions(why, part), why);
  }
  CHECK(study::why_it_cannot_fit(estimate, asked, host_of(126)).empty());
  CHECK_FALSE(study::why_it_cannot_fit(estimate, asked, host_of(125)).empty());  // the floor counts
  host.swap = 8 * kGiB;
  CHECK(study::why_it_cannot_fit(estimate, asked, host).empty());
  host.swap = 0;
  host.gpu = 24 * kGiB;
  CHECK(study::why_it_cannot_fit(estimate, asked, host).empty());
  CHECK(study::why_it_cannot_fit(estimate, asked, HostCapacity{}).empty());  // nothing known of the host
}

TEST_CASE("a split model counts all its parts, and a missing one is named") {
  Workplace place;
  auto part = [&](int number) {
    auto file = number == 1 ? model_file("qwen3", 2, 8, 2, 128, 1024) : fixtures::GgufBuilder();
    file.raw("split.count", 2, uint16_t{2}).raw("split.no", 2, static_cast<uint16_t>(number - 1));
    file.tensor("blk." + std::to_string(number - 1) + ".w", {1024}, 0, std::string(4096, 'w'));
    return file.build();
  };
  std::string first = place.write("m-00001-of-00002.gguf", part(1));
  auto missing = study::load_model_shape(first);
  REQUIRE_FALSE(missing.ok());
  CHECK(mentions(missing.failure().to_string(), "m-00002-of-00002.gguf: part 2 of 2"));
  place.write("m-00002-of-00002.gguf", part(2));
  auto shape = study::load_model_shape(first);
  REQUIRE(shape.ok());
  REQUIRE(shape->has_value());
  CHECK((*shape)->weight_bytes == 8192);
  CHECK((*shape)->layer_bytes == std::vector<uint64_t>{4096, 4096});
  auto renamed = study::load_model_shape(place.write("other.gguf", part(1)));
  REQUIRE_FALSE(renamed.ok());
  CHECK(mentions(renamed.failure().to_string(), "-00001-of-00002.gguf"));
  auto other = study::load_model_shape(place.write("weights.bin", "no model of this kind"));
  REQUIRE(other.ok());
  CHECK_FALSE(other->has_value());
}

TEST_CASE("settings come from the axes, else from backend.args, else they are unknown") {
  study::Study study = study_of("m.gguf", "  args: [-ctv, q8_0, --no-mmap, -ngl, '12']\n");
  search::Config config = study.space.default_config();
  MemorySettings found = study::memory_settings(study, config);
  CHECK(found.n_ctx == 65536);
  CHECK(found.cache_type_k == "f16");
  CHECK(found.cache_type_v == "q8_0");
  CHECK_FALSE(found.mmap);
  CHECK_FALSE(found.mlock);
  CHECK(found.n_gpu_layers == 12);
  CHECK_FALSE(found.moved);
  CHECK(found.n_threads == 0);
  CHECK(found.n_ubatch == 512);
  MemorySettings argued = study::memory_settings(
      study_of("m.gguf", "  args: [-t, '4', --threads-batch, '12', -ub, '1024', -b, '256']\n"), config);
  CHECK(argued.n_threads == 12);
  CHECK_FALSE(argued.own_threads);
  CHECK(study::memory_settings(study_of("m.gguf", "  args: [-tb, '2']\n"), config).own_threads);
  CHECK(study::memory_settings(study_of("m.gguf", "  args: [-np, '4']\n"), config).n_seqs == 4);
  CHECK(study::memory_settings(study_of("m.gguf", "  args: [-np, '4', -kvu]\n"), config).n_seqs == 1);
  const MemorySettings policy = study::memory_settings(
      study_of("m.gguf", "  args: [--kv-first-last, 'q8_0,3', --kv-center, 'on']\n"), config);
  CHECK(policy.edge_type == "q8_0");
  CHECK(policy.edge_layers == 3);
  CHECK(policy.kv_center);
  CHECK(argued.n_ubatch == 256);  // never more than a batch
  config[study.space.index_of("mlock")] = std::string("true");
  CHECK(study::memory_settings(study, study_of("m.gguf").space.default_config()).n_ctx.has_value());
  CHECK(study::memory_settings(study_of("m.gguf", "  args: [--cpu-moe]\n"), config).moved);
  CHECK(study::memory_settings(study_of("m.gguf", "  env: {LLAMA_ARG_CTX_SIZE: '0'}\n"), config).moved);
}

TEST_CASE("mlock holds weights only where it will be granted") {
  Workplace place;
  auto file = model_file("minimax-m2", 62, 48, 8, 128, 3072);
  file.tensor("blk.0.w", {1 << 20}, 0, std::string(4 << 20, 'w'));
  study::Study study = study_of(place.write("m.gguf", file.build()));
  search::Config config = study.space.default_config();
  HostCapacity host = host_of(1000);
  host.floor = 0;
  host.memory = study::MemoryForecast::make(study, host)->estimate(config).least + (1 << 20);
  config[study.space.index_of("mlock")] = true;
  auto why = [&](uint64_t lockable) {
    host.lockable = lockable;
    auto forecast = study::MemoryForecast::make(study, host);
    REQUIRE(forecast.ok());
    return forecast->cannot_fit(config);
  };
  CHECK(why(8 << 20) != "");
  CHECK(mentions(why(8 << 20), "weights 3.75 MiB locked"));
  CHECK(why(64 << 10) == "");  // refused: a warning, and it runs with mapped weights
  CHECK(os::lockable_memory() > 0);
}

TEST_CASE("a default that cannot fit names the largest context that can") {
  Workplace place;
  std::string model = place.write("m.gguf", model_file("minimax-m2", 62, 48, 8, 128, 3072).build());
  study::Study study = study_of(model);
  auto forecast = study::MemoryForecast::make(study, host_of(12));
  REQUIRE(forecast.ok());
  search::Config config = study.space.default_config();
  CHECK(forecast->knows(config));
  auto fits = forecast->check_default();  // 15.5 GiB at 65536, 1 GiB at 4096
  REQUIRE_FALSE(fits.ok());
  CHECK(mentions(fits.failure().to_string(), "make ctx_size 4096 the default"));
  auto large = study::MemoryForecast::make(study, host_of(20));
  REQUIRE(large.ok());
  CHECK(large->check_default().ok());
  config[0] = int64_t{1048576};
  CHECK_FALSE(large->cannot_fit(config).empty());
  auto tiny = study::MemoryForecast::make(study, host_of(1));
  REQUIRE(tiny.ok());
  CHECK(mentions(tiny->check_default().failure().to_string(), "smaller model"));
  // Nothing to forecast from: nothing is forbidden.
  study.model = place.write("plain.bin", "weights");
  auto blind = study::MemoryForecast::make(study, host_of(1));
  REQUIRE(blind.ok());
  CHECK_FALSE(blind->knows(config));
  CHECK(blind->cannot_fit(config).empty());
  CHECK(blind->check_default().ok());
}
