// Mixtures of experts beyond the golden logits: their shape at MiniMax-M2's width of choice, which bytes a step
// touches, and what they compute against a dense model.

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "src/engine/architectures.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/synthetic_model.h"
#include "tests/gguf/split_gguf.h"

using fixtures::SyntheticSpec;
using fixtures::SyntheticTensor;

namespace {

// A model in the directory for temporary files, gone with it.
class SyntheticFile {
 public:
  explicit SyntheticFile(const SyntheticSpec& spec)
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("ar_experts_{}_{}.gguf", ::getpid(), ++n_files)) {
    REQUIRE(fixtures::write_model(spec, path_));
  }
  ~SyntheticFile() { std::filesystem::remove(path_); }
  SyntheticFile(const SyntheticFile&) = delete;
  SyntheticFile& operator=(const SyntheticFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  static inline int n_files = 0;
  std::string path_;
};

// MiniMax-M2's experts, group of query heads, partial rotary and mix of types, at small widths.
SyntheticSpec minimax() {
  SyntheticSpec spec;
  spec.architecture = "minimax-m2";
  spec.n_embd = spec.n_ff = 256;
  spec.n_head = 6;
  spec.n_head_kv = 1;
  spec.head_dim = 128;
  spec.n_rot = 64;
  spec.n_expert = 256;
  spec.n_expert_used = 8;
  spec.type = "q3_k";
  spec.types = {{"attn_k", "q8_0"},
                {"attn_v", "q8_0"},
                {"attn_output", "q5_k"},
                {"ffn_down_exps", "q4_k"},
                {"output", "q6_k"}};
  return spec;
}

engine::ContextOptions options(int n_threads, int n_ubatch) {
  engine::ContextOptions chosen;
  chosen.n_ctx = 256;
  chosen.n_threads = n_threads;
  chosen.n_ubatch = n_ubatch;
  return chosen;
}

}  // namespace

TEST_CASE("a model of MiniMax-M2's shape, 256 experts in a mix of types, runs the same however it is cut") {
  const SyntheticFile file(minimax());
  const auto model = fixtures::load(file.path());
  CHECK(model->hp.n_expert == 256);
  CHECK(model->hp.n_expert_used == 8);
  CHECK(model->layers.size() == 2);
  const auto tokens = fixtures::some_tokens(40, model->hp.n_vocab);
  const auto together = fixtures::open(model, options(2, 64));
  const auto whole = fixtures::logits(*together, tokens);
  CHECK(together->weight_bytes_read() >
        5 * engine::bytes_per_step(*model, 2 * 8) / 2);  // rows differ in their choice
  CHECK(together->weight_bytes_read() <= engine::bytes_per_step(*model, 2 * 256));
  double largest = 0;
  for (const float logit : whole) {
    REQUIRE(std::isfinite(logit));
    largest = std::max(largest, std::abs(double{logit}));
  }
  CHECK(largest > 0.1);
  CHECK(largest < 1000);
  for (const int n_ubatch : {1, 3, 17}) {
    CAPTURE(n_ubatch);
    CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(model, options(3, n_ubatch)), tokens), whole));
  }

  const fixtures::Folder folder(fmt::format("ar_experts_split_{}", ::getpid()));
  const std::string first = fixtures::write_parts(folder, fixtures::split_gguf(file.path(), 3));
  CHECK(first.ends_with("-00001-of-00003.gguf"));
  const auto split = fixtures::load(first);
  CHECK(split->weight_bytes == model->weight_bytes);
  CHECK(split->expert_bytes == model->expert_bytes);
  CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(split, options(2, 64)), tokens), whole));
}

TEST_CASE("bytes of a step: the experts it touches and everything that is not an expert") {
  const SyntheticFile file(minimax());
  const auto model = fixtures::load(file.path());
  const uint64_t gate = 256 / 256 * 110 * 256, down = 144 * 256, of_all = 2 * 256 * (2 * gate + down);
  CHECK(model->expert_bytes == of_all);
  const uint64_t table = 256 * 110, rest = model->weight_bytes - of_all - table;
  CHECK(engine::bytes_per_step(*model, 0) == rest);
  CHECK(engine::bytes_per_step(*model, 2 * 8) == rest + 2 * 8 * (2 * gate + down));
  CHECK(engine::bytes_per_token(*model) == engine::bytes_per_step(*model, 2 * 8));
  CHECK(engine::bytes_per_step(*model, 2 * 256) == model->weight_bytes - table);
}

TEST_CASE("only the chosen experts are touched, by decode and by prefill") {
  const std::vector<int> favourites = {3, 17, 18, 99, 100, 101, 254, 255};
  SyntheticSpec spec = minimax();
  spec.n_layer = 1;
  spec.change = [&favourites](const SyntheticTensor& tensor, std::string& bytes) {
    if (tensor.name.ends_with("exp_probs_b.bias")) {
      for (const int expert : favourites) {
        const float large = 10;
        std::memcpy(bytes.data() + static_cast<size_t>(expert) * sizeof large, &large, sizeof large);
      }
    }
  };
  const SyntheticFile file(spec);
  const auto model = fixtures::load(file.path(), {false, false});  // pages of our own
  auto context = fixtures::open(model, options(2, 64));
  const auto tokens = fixtures::some_tokens(20, model->hp.n_vocab);
  const auto want = fixtures::logits(*context, tokens);
  const uint64_t per_token = engine::bytes_per_token(*model);
  CHECK(context->weight_bytes_read() == per_token);  // all rows chose the same
  REQUIRE(context->eval(0, std::span(tokens).first(1)).ok());
  CHECK(context->weight_bytes_read() == 2 * per_token);
  // A page that lies whole within another expert may not be read any more.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  int closed = 0;
  const engine::LayerWeights& w = model->layers[0];
  for (const engine::Experts* experts : {&w.gate_exps, &w.up_exps, &w.down_exps}) {
    for (int expert = 0; expert < 256; ++expert) {
      if (std::ranges::find(favourites, expert) != favourites.end()) {
        continue;
      }
      const auto begin = reinterpret_cast<uintptr_t>(experts->at(expert).data);
      const uintptr_t first = (begin + page - 1) / page * page, last = (begin + experts->bytes) / page * page;
      if (first < last) {
        REQUIRE(::mprotect(reinterpret_cast<void*>(first), last - first, PROT_NONE) == 0);
        ++closed;
      }
    }
  }
  CHECK(closed > 700);
  for (const int n_ubatch : {1, 64}) {
    CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(model, options(2, n_ubatch)), tokens), want));
  }
}

TEST_CASE("experts of fixed weights give what they give side by side in a dense model") {
  const struct {
    const char *moe, *dense;
  } pairs[] = {{"qwen3moe", "qwen3"}, {"llama", "llama"}};  // the second is Mixtral
  for (const auto& pair : pairs) {
    CAPTURE(pair.moe);
    SyntheticSpec moe;
    moe.architecture = pair.moe;
    moe.n_expert = 12;
    moe.n_expert_used = 4;
    moe.type = "q4_k";
    moe = fixtures::fixed_choice(moe);
    const SyntheticFile file(moe), wide(fixtures::dense_like(moe, pair.dense));
    const auto model = fixtures::load(file.path()), dense = fixtures::load(wide.path());
    CHECK(model->hp.n_expert == 12);
    CHECK(dense->hp.n_expert == 0);
    CHECK(dense->hp.n_ff == 4 * model->hp.n_ff);
    const auto tokens = fixtures::some_tokens(30, model->hp.n_vocab);
    for (const int n_ubatch : {1, 64}) {
      auto exact =
          options(2, n_ubatch);  // a rounded activation may fall to either side where sums differ in order
      exact.activations = "f32";
      const auto got = fixtures::logits(*fixtures::open(model, exact), tokens);
      const auto want = fixtures::logits(*fixtures::open(dense, exact), tokens);
      const auto difference = fixtures::compare(got, want);
      MESSAGE(pair.moe, ": 4 of 12 experts against dense: max error ", difference.max, " of the std");
      CHECK(difference.max < 1e-4);
    }
    // Other experts would give something else.
    moe.n_expert_used = 3;
    moe.expert_scale = 3;
    const SyntheticFile fewer(moe);
    const auto other =
        fixtures::logits(*fixtures::open(fixtures::load(fewer.path()), options(2, 64)), tokens);
    const auto want = fixtures::logits(*fixtures::open(dense, options(2, 64)), tokens);
    CHECK(fixtures::compare(other, want).max > 0.1);
  }
}

TEST_CASE("queries, keys and values in one tensor compute what three do, to the bit") {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    CAPTURE(architecture);
    SyntheticSpec spec;
    spec.architecture = architecture;
    const SyntheticFile apart(spec), fused(fixtures::fused_like(spec));
    const auto one = fixtures::load(fused.path()), three = fixtures::load(apart.path());
    CHECK(one->file.find("blk.0.attn_qkv.weight") != nullptr);
    CHECK(one->n_params == three->n_params);
    const auto tokens = fixtures::some_tokens(20, one->hp.n_vocab);
    CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(one, options(2, 64)), tokens),
                              fixtures::logits(*fixtures::open(three, options(2, 64)), tokens)));
  }
}

#define CHECK_CONTAINS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, (text))

TEST_CASE("an expert's width where the file has none of its own: a share of what all have, or the same") {
  const auto width = [](const std::string& name) {
    fixtures::GgufBuilder file;
    file.u32(name + ".context_length", 64).u32(name + ".embedding_length", 64).u32(name + ".block_count", 1);
    file.u32(name + ".feed_forward_length", 512).u32(name + ".attention.head_count", 2);
    file.u32(name + ".expert_count", 8).u32(name + ".expert_used_count", 4);
    file.f32(name + ".attention.layer_norm_rms_epsilon", 1e-6F);
    const std::string bytes = file.build();
    const auto parsed = gguf::parse(std::as_bytes(std::span(bytes)), "x.gguf");
    REQUIRE(parsed.ok());
    const auto hp = engine::read_hparams(*parsed, *engine::find_architecture(name), "x.gguf");
    REQUIRE_MESSAGE(hp.ok(), hp.failure().to_string());
    return hp->n_ff;
  };
  CHECK(width("qwen3moe") == 128);
  CHECK(width("minimax-m2") == 512);
  CHECK(width("llama") == 512);
}

TEST_CASE("mixtures that cannot be are refused by key or tensor") {
  const auto refused = [](SyntheticSpec spec) {
    spec.n_layer = 1;
    const SyntheticFile file(spec);
    const auto model = engine::load_model(file.path(), {});
    REQUIRE_FALSE(model.ok());
    CHECK_FALSE(model.failure().next.empty());
    return model.failure().to_string();
  };
  SyntheticSpec moe;
  moe.architecture = "qwen3moe";
  moe.n_expert = 4;
  moe.n_expert_used = 5;
  CHECK_CONTAINS(refused(moe), "'qwen3moe.expert_used_count' is 5, outside 1..4");
  moe.n_expert_used = 0;
  CHECK_CONTAINS(refused(moe), "'qwen3moe.expert_used_count' is 0, outside 1..4");
  moe.n_expert = 5000;
  moe.n_embd = moe.n_ff = 32;
  CHECK_CONTAINS(refused(moe), "'qwen3moe.expert_count' is 5000, outside 1..4096");
  moe.n_expert = 0;
  CHECK_CONTAINS(refused(moe), "'qwen3moe.expert_count' is missing");
  SyntheticSpec dense;
  dense.architecture = "qwen3";
  dense.n_expert = 4;
  CHECK_CONTAINS(refused(dense), "'qwen3.expert_count' is 4, but a mixture of experts is not");
}
