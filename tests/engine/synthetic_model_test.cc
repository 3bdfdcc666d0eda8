// Models of random weights that a command line asks for: what is refused, what is counted, that they compute.
#include "src/engine/synthetic_model.h"

#include <filesystem>

#include "src/engine/eval_options.h"
#include "src/engine/evaluation_run.h"
#include "src/engine/model.h"
#include "src/os/memory_file.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/synthetic_model.h"

namespace {

const std::string kSmall =
    "minimax-m2.5,n_layer=3,n_embd=256,n_ff=256,n_head=4,n_head_kv=2,n_vocab=512,n_expert=8,n_expert_used=2";

std::string why(const std::string& config) {
  auto spec = engine::parse_synthetic(config);
  return spec ? "" : spec.failure().to_string();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("shapes of models: what the engine will count, and what no model can be") {
  const auto gb = [](const std::string& config) {
    return static_cast<double>(engine::size_of(*engine::parse_synthetic(config)).weights) / 1e9;
  };
  CHECK(gb("8b") == doctest::Approx(4.7).epsilon(0.05));
  CHECK(gb("70b") == doctest::Approx(40).epsilon(0.05));
  CHECK(gb("minimax-m2.5") == doctest::Approx(98).epsilon(0.03));
  CHECK(gb("8b,type=q8_0") == doctest::Approx(8.5).epsilon(0.03));
  CHECK(engine::size_of(*engine::parse_synthetic("70b")).file < 2'000'000'000);

  CHECK(has(why("9b"), "no shape is called '9b'"));
  CHECK(has(why("9b"), "use one of 8b, 70b, minimax-m2.5"));
  CHECK(has(why(""), "no shape is called ''"));
  CHECK(has(why("8b,n_layers=2"), "did you mean n_layer?"));
  CHECK(has(why("8b,"), "no field ''"));
  for (const char* number : {"", "x", "0", "-1", "1025", "1e3", "99999999999"}) {
    CAPTURE(number);
    CHECK(has(why(std::string("8b,n_layer=") + number), "give one of 1 to 1024"));
  }
  CHECK(has(why("8b,type=q4k"), "random weights of type 'q4k' cannot be made"));
  CHECK(has(why("8b,type=tbq4_0"), "cannot be made"));
  CHECK(has(why("8b,type.ffn_gate_exps=q4_k"), "the model has no tensors 'ffn_gate_exps'"));
  CHECK(has(why("8b,n_embd=4128"), "rows of 4128 values are no whole blocks of q4_k"));
  CHECK(has(why("8b,n_head=33"), "33 heads cannot share 8 KV heads"));
  CHECK(has(why("8b,n_rot=256"), "256 of 128 dimensions cannot be rotated"));
  CHECK(has(why("minimax-m2.5,n_expert=4"), "8 of 4 experts cannot be used"));

  using Args = std::vector<std::string>;
  CHECK(engine::parse_eval_options(Args{"--synthetic", "8b"})->evaluation.n_chunks == 1);
  for (const Args& args : {Args{"--synthetic", "8b", "--model", "m.gguf"},
                           {"--synthetic", "8b", "-f", "t.txt"},
                           {"--synthetic", "8b", "--kv-center", "on"},
                           {"--synthetic", "7b"}}) {
    auto options = engine::parse_eval_options(args);
    REQUIRE_FALSE(options.ok());
    CHECK(has(options.failure().to_string(), "--synthetic"));
  }
}

TEST_CASE("layers that share their bytes are as many to the engine, and compute") {
  const auto spec = *engine::parse_synthetic(kSmall);
  const engine::SyntheticSize size = engine::size_of(spec);
  auto file = os::MemoryFile::create("test.gguf");
  REQUIRE(file.ok());
  REQUIRE(engine::write_model(spec, file->path()).ok());
  CHECK(std::filesystem::file_size(file->path()) >= size.file);
  CHECK(std::filesystem::file_size(file->path()) < size.file + 20000);
  auto model = engine::load_model(file->path(), {});
  REQUIRE_MESSAGE(model.ok(), model.failure().to_string());
  CHECK((*model)->weight_bytes == size.weights);
  REQUIRE((*model)->layers.size() == 3);
  CHECK((*model)->layers[2].down_exps.first.data == (*model)->layers[0].down_exps.first.data);
  CHECK((*model)->layers[2].q.data != (*model)->layers[2].k.data);

  engine::EvaluationOptions options;
  options.pairs = *engine::parse_kv_pairs("tbq4_0/tbq3_0");
  options.n_ctx = 64;
  options.n_threads = 1;
  options.n_decode = 4;
  const auto done = engine::evaluate(*model, fixtures::some_tokens(64, spec.n_vocab), -1, options,
                                     [](const engine::Evaluation&) { return base::Result<void>(); });
  REQUIRE_MESSAGE(done.ok(), done.failure().to_string());
  CHECK(done->pairs[1].decode_s.size() == 4);
  CHECK(done->pairs[0].losses.nll.size() == 31);
}
