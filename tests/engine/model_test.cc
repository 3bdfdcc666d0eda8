#include "src/engine/model.h"

#include <fmt/format.h>
#include <unistd.h>

#include "kernels/formats/formats.h"
#include "src/engine/context_plan.h"
#include "src/gguf/gguf.h"
#include "src/os/host.h"
#include "tests/engine/fixtures.h"
#include "tests/gguf/build_gguf.h"

using fixtures::GgufBuilder;

namespace {

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

// A file in a directory of its own that goes with it.
class TemporaryModel {
 public:
  explicit TemporaryModel(const std::string& bytes)
      : path_(std::filesystem::temp_directory_path() / fmt::format("ar_model_{}.gguf", ::getpid())) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TemporaryModel() { std::filesystem::remove(path_); }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A one-layer llama of zeros: width 16, 2 heads of 8, 32 tokens. Overrides replace keys; a type of 99 in
// `types` leaves the tensor out.
struct Recipe {
  std::map<std::string, uint32_t> ints = {{"context_length", 64},      {"embedding_length", 16},
                                          {"block_count", 1},          {"feed_forward_length", 8},
                                          {"attention.head_count", 2}, {"attention.head_count_kv", 1}};
  std::map<std::string, std::pair<std::vector<uint64_t>, uint32_t>> tensors = {
      {"token_embd.weight", {{16, 32}, 0}},        {"output_norm.weight", {{16}, 0}},
      {"blk.0.attn_norm.weight", {{16}, 0}},       {"blk.0.attn_q.weight", {{16, 16}, 0}},
      {"blk.0.attn_k.weight", {{16, 8}, 0}},       {"blk.0.attn_v.weight", {{16, 8}, 0}},
      {"blk.0.attn_output.weight", {{16, 16}, 0}}, {"blk.0.ffn_norm.weight", {{16}, 0}},
      {"blk.0.ffn_gate.weight", {{16, 8}, 0}},     {"blk.0.ffn_up.weight", {{16, 8}, 0}},
      {"blk.0.ffn_down.weight", {{8, 16}, 0}}};
  std::string architecture = "llama";

  GgufBuilder builder() const {
    GgufBuilder file;
    file.text("general.architecture", architecture).f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    for (const auto& [key, value] : ints) {
      file.u32("llama." + key, value);
    }
    for (const auto& [name, tensor] : tensors) {
      uint64_t values = 1;
      for (const uint64_t dim : tensor.first) {
        values *= dim;
      }
      const auto size = gguf::type_size(tensor.second);
      file.tensor(name, tensor.first, tensor.second,
                  std::string(values / static_cast<uint64_t>(size->block_values) *
                                  static_cast<uint64_t>(size->block_bytes),
                              '\0'));
    }
    return file;
  }
};

std::string refusal(const std::string& bytes) {
  const TemporaryModel file(bytes);
  const auto model = engine::load_model(file.path(), {});
  REQUIRE_FALSE(model.ok());
  CHECK(model.failure().where == file.path());
  CHECK_FALSE(model.failure().next.empty());
  return model.failure().to_string();
}

#define CHECK_CONTAINS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, (text))

}  // namespace

TEST_CASE("hyperparameters and weights of the tiny model, mapped and read") {
  for (const bool mmap : {true, false}) {
    const auto model = fixtures::load(kTiny, {mmap, false});
    CHECK(model->hp.architecture == "llama");
    CHECK(model->hp.n_embd == 64);
    CHECK(model->hp.n_layer == 2);
    CHECK(model->hp.head_dim == 32);
    CHECK(model->hp.n_head * model->hp.head_dim != model->hp.n_embd);
    CHECK(model->hp.n_rot == 32);
    CHECK(model->hp.n_vocab == 128);
    CHECK(model->layers.size() == 2);
    CHECK(model->output.data != model->token_embd.data);
    CHECK(model->mapped == mmap);
    CHECK(model->n_params == 102720);
    CHECK(model->weight_bytes == 102720 * 2 + 5 * 64 * 2);
  }
}

TEST_CASE("a minimal model: defaults, tied output, norms in f16") {
  Recipe recipe;
  recipe.tensors["output_norm.weight"].second = 1;
  const TemporaryModel file(recipe.builder().build());
  const auto model = fixtures::load(file.path());
  CHECK(model->hp.head_dim == 8);
  CHECK(model->hp.n_rot == 8);
  CHECK(model->hp.rope_freq_base == 10000);
  CHECK(model->hp.n_vocab == 32);
  CHECK(model->output.data == model->token_embd.data);
  CHECK(model->converted.size() == 1);
}

TEST_CASE("models that cannot be are refused by name") {
  const auto with = [](auto change) {
    Recipe recipe;
    change(recipe);
    return refusal(recipe.builder().build());
  };
  CHECK_CONTAINS(with([](Recipe& r) { r.architecture = "gpt9"; }),
                 "architecture 'gpt9' is not supported; use a model of one of: llama");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints.erase("block_count"); }), "'llama.block_count' is missing");
  CHECK_CONTAINS(
      with([](Recipe& r) { r.ints["attention.key_length"] = r.ints["attention.value_length"] = 2048; }),
      "'llama.attention.key_length' is 2048, outside 1..1024");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["embedding_length"] = 4096; }),
                 "'llama.attention.key_length' is 2048, outside 1..1024");  // by default width / heads
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["block_count"] = 0; }), "is 0, outside 1..");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["block_count"] = 2; }),
                 "tensor 'blk.1.attn_norm.weight' is missing");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["attention.head_count"] = 3; }),
                 "key_length' is 5, not a multiple of 8");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["attention.head_count_kv"] = 3; }),
                 "not a multiple of head_count_kv 3");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["rope.dimension_count"] = 4; }), "needs the head size, 8");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["attention.value_length"] = 16; }), "unlike key_length 8");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["expert_count"] = 8; }), "'llama.expert_used_count' is missing");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["expert_count"] = 5000; }),
                 "'llama.expert_count' is 5000, outside 1..4096");
  const auto fused = [&](uint64_t rows, bool apart_too) {
    return with([&](Recipe& r) {
      r.tensors["blk.0.attn_qkv.weight"] = {{16, rows}, 0};
      for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"}) {
        if (!apart_too) {
          r.tensors.erase(name);
        }
      }
    });
  };
  CHECK_CONTAINS(fused(31, false),
                 "'blk.0.attn_qkv.weight' has shape [16, 31], the metadata ask for [16, 32]");
  CHECK_CONTAINS(fused(32, true), "tensor 'blk.0.attn_k.weight' is not one that llama models have here");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["vocab_size"] = 33; }),
                 "'token_embd.weight' has shape [16, 32], the metadata ask for [16, 33]");
  CHECK_CONTAINS(with([](Recipe& r) { r.ints["embedding_length"] = 0x7fffffff; }), "outside 1..");
  CHECK_CONTAINS(with([](Recipe& r) {
                   r.tensors["blk.0.attn_q.weight"].first = {16, 8};
                 }),
                 "'blk.0.attn_q.weight' has shape [16, 8]");
  CHECK_CONTAINS(with([](Recipe& r) { r.tensors["token_embd.weight"].first = {16}; }),
                 "'token_embd.weight' has shape [16]");
  CHECK_CONTAINS(with([](Recipe& r) { r.tensors["output_norm.weight"].second = 26; }),
                 "'output_norm.weight' has type i32, which is not supported");
  // Types of the file format that nothing here computes with, and rows that are no whole blocks.
  CHECK_CONTAINS(with([](Recipe& r) { r.tensors["output_norm.weight"].second = 28; }),
                 "'output_norm.weight' has type f64, which is not supported");
  CHECK_CONTAINS(with([](Recipe& r) { r.tensors["token_embd.weight"].second = 12; }),
                 "rows of 16 values are not a whole number of q4_k blocks of 256");
  CHECK_CONTAINS(with([](Recipe& r) {
                   r.tensors["blk.0.attn_q.bias"] = {{16}, 0};
                 }),
                 "'blk.0.attn_q.bias' is not one that llama models have here");
  CHECK_CONTAINS(with([](Recipe& r) {
                   r.tensors["rope_freqs.weight"] = {{4}, 0};
                 }),
                 "'rope_freqs.weight': element 0 is 0");
  CHECK_CONTAINS(refusal(Recipe().builder().text("llama.rope.scaling.type", "longrope").build()),
                 "'longrope', which is not supported");
  CHECK_CONTAINS(refusal(Recipe().builder().u32("split.count", 3).build()), "first of 3 parts");
  CHECK_CONTAINS(refusal(Recipe().builder().f32("llama.rope.freq_base", std::nanf("")).build()),
                 "rope.freq_base' is nan");
  CHECK_CONTAINS(refusal(Recipe().builder().text("llama.rope.freq_base", "x").build()),
                 "is missing or no number");
  CHECK_CONTAINS(engine::load_model("/nonexistent/model.gguf", {}).failure().to_string(), "No such file");
}

TEST_CASE("every weight format has the name and size that the file format gives its type") {
  for (const kernels::WeightFormat& format : kernels::weight_formats()) {
    CAPTURE(format.name);
    const auto size = gguf::type_size(format.ggml_type);
    REQUIRE(size.has_value());
    CHECK(size->name == format.name);
    CHECK(size->block_values == format.block_values);
    CHECK(size->block_bytes == format.block_bytes);
  }
}

TEST_CASE("context options that cannot be are refused by flag") {
  const auto model = fixtures::load(kTiny);
  const auto refused = [&](auto change) {
    engine::ContextOptions options;
    change(options);
    const auto context = engine::Context::open(model, options);
    REQUIRE_FALSE(context.ok());
    return context.failure().to_string();
  };
  CHECK_CONTAINS(refused([](auto& o) { o.cache_type_k = "q9_0"; }),
                 "--cache-type-k: unknown cache type 'q9_0'; use one of: f32, f16");
  CHECK_CONTAINS(refused([](auto& o) { o.cache_type_v = ""; }), "--cache-type-v: unknown");
  CHECK_CONTAINS(refused([](auto& o) { o.n_ctx = -1; }), "--ctx-size: -1 is out of range");
  CHECK_CONTAINS(refused([](auto& o) { o.n_ubatch = 0; }), "--ubatch-size");
  CHECK_CONTAINS(refused([](auto& o) { o.n_seqs = 0; }), "--parallel");
  CHECK_CONTAINS(refused([](auto& o) { o.n_threads = 100000; }), "--threads");
  CHECK_CONTAINS(refused([](auto& o) { o.n_ctx = 2147483647; }), "more than can be addressed");
  // 2 TiB of f32.
  CHECK_CONTAINS(refused([](auto& o) {
                   o.n_ctx = 2147483392;
                   o.cache_type_k = o.cache_type_v = "f32";
                 }),
                 "MiB of memory are available; use --ctx-size");
}

TEST_CASE("what a context's options come to") {
  const auto model = fixtures::load(kTiny);
  engine::ContextOptions options;
  options.n_ctx = 300;
  options.cache_type_k = "q8_0";
  auto context = fixtures::open(model, options);
  const engine::ContextInfo& info = context->info();
  CHECK(info.n_ctx == 512);
  CHECK(info.n_batch == 512);
  CHECK(info.n_ubatch == 512);
  CHECK(info.n_threads == os::usable_cores());
  CHECK(info.n_threads_batch == info.n_threads);
  CHECK(info.k_bits_per_value == 8.5);
  CHECK(info.v_bits_per_value == 16);
  CHECK(info.kv_bytes == 2ULL * 2 * 512 * 32 * (17 + 32) / 16);
  CHECK(info.backend.starts_with("cpu "));
  options.n_ctx = 0;
  CHECK(fixtures::open(model, options)->info().n_ctx == 2048);
}

TEST_CASE("sequences share the context out: a part each, or one cache for all") {
  const auto model = fixtures::load(kTiny);
  const auto plan = [&](int n_ctx, int n_seqs, bool unified) {
    engine::ContextOptions options;
    options.n_ctx = n_ctx;
    options.n_seqs = n_seqs;
    options.kv_unified = unified;
    const auto planned = engine::plan_context(*model, options);
    REQUIRE(planned.ok());
    return *planned;
  };
  CHECK(plan(1024, 1, false).info.n_ctx == 1024);
  CHECK(plan(1024, 4, false).info.n_ctx == 256);
  CHECK(plan(1024, 4, false).kv.n_pages == 8);
  CHECK(plan(1000, 3, false).info.n_ctx == 512);  // 1024 / 3, padded
  CHECK(plan(1000, 3, false).kv.n_pages == 12);
  CHECK(plan(1000, 3, false).kv.seq_pages == 4);
  CHECK(plan(1000, 3, true).info.n_ctx == 1024);
  CHECK(plan(1000, 3, true).kv.n_pages == 8);
  CHECK(plan(1000, 3, true).kv.seq_pages == 8);
  CHECK(plan(0, 4, false).info.n_ctx == 512);  // of the model's 2048
  CHECK(plan(0, 4, true).info.n_ctx == 2048);
  CHECK(plan(100, 100, false).info.n_ctx == 256);
  CHECK(plan(512, 2, false).info.n_batch == 512);  // of both together
  CHECK(plan(512, 2, false).kv.bytes() == plan(512, 1, false).kv.bytes());
}

TEST_CASE("a KV cache whose size overflows is refused, not wrapped") {
  engine::Model model;
  model.hp.n_layer = 4096;
  model.hp.n_head = model.hp.n_head_kv = 65536;
  model.hp.head_dim = kernels::kMaxHeadDim;
  model.hp.n_ctx_train = 1 << 30;
  engine::ContextOptions options;
  options.cache_type_k = options.cache_type_v = "f32";
  options.n_ctx = 1 << 30;
  const auto refused = engine::plan_context(model, options);
  REQUIRE_FALSE(refused.ok());
  CHECK_CONTAINS(refused.failure().to_string(), "more KV cache than can be addressed");
  options.n_ctx = 256;
  CHECK(engine::plan_context(model, options).ok());
}

TEST_CASE("too little memory is said before anything is allocated, with what would fit") {
  const auto model = fixtures::load(kTiny);
  engine::ContextOptions options;
  options.n_ctx = 2048;
  const auto plan = engine::plan_context(*model, options);
  REQUIRE(plan.ok());
  const engine::Need need{0, 8 << 20, 1 << 20, {}};  // 1 MiB of KV per 256 tokens
  std::vector<std::string> fallbacks;
  const auto refused = engine::check_memory(need, *plan, 0, (4 << 20) + 1, fallbacks);
  REQUIRE_FALSE(refused.ok());
  CHECK_CONTAINS(refused.failure().what, "8.00 MiB of KV cache");
  CHECK_CONTAINS(refused.failure().what, "4.00 MiB of memory are available");
  CHECK_CONTAINS(refused.failure().next, "--ctx-size 768 or less");
  CHECK_CONTAINS(engine::check_memory(need, *plan, 0, 100, fallbacks).failure().next, "not even 256");
  CHECK(engine::check_memory(need, *plan, 1 << 20, 10 << 20, fallbacks).ok());
  CHECK(fallbacks.empty());
  CHECK(engine::check_memory(need, *plan, 2 << 20, 10 << 20, fallbacks).ok());
  CHECK(fallbacks.size() == 1);
}

TEST_CASE("evaluation refuses what it cannot do and keeps the sequence") {
  const auto model = fixtures::load(kTiny);
  engine::ContextOptions options;
  options.n_ctx = 256;
  options.n_ubatch = 10;
  auto context = fixtures::open(model, options);
  const std::vector<int> tokens(200, 5), outside{1, 128}, negative{-1};
  REQUIRE(context->eval(0, tokens).ok());
  CHECK_CONTAINS(context->eval(0, tokens).failure().what,
                 "context full: 200 tokens after 200 exceed the context of 256");
  CHECK_CONTAINS(context->eval(0, outside).failure().what, "token 1 is 128, outside the vocabulary of 128");
  CHECK_FALSE(context->eval(0, negative).ok());
  CHECK_FALSE(context->eval(0, {}).ok());
  CHECK(context->length(0) == 200);
  context->truncate(0, 0);
  REQUIRE(context->eval(0, tokens).ok());
  REQUIRE(context->eval(0, std::vector<int>(56, 1)).ok());  // full to the last slot
  CHECK(context->length(0) == 256);
}
