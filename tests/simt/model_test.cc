// Whole models on the GPU's backend against the CPU's: small ones at random, on the shim or a device.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "src/engine/cuda_backend.h"
#include "src/engine/saved_sequence.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/synthetic_model.h"
#ifndef AR_ON_DEVICE
#include "tests/simt/runtime.h"
#endif

using engine::Context;
using engine::ContextOptions;
using engine::Part;
using engine::PartId;
using fixtures::SyntheticSpec;

namespace {

std::shared_ptr<const engine::Model> make(const SyntheticSpec& spec) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("simt-model-" + std::to_string(::getpid()) + ".gguf"))
          .string();
  REQUIRE(fixtures::write_model(spec, path));
  engine::LoadOptions in_memory;
  in_memory.mmap = false;
  auto model = fixtures::load(path, in_memory);
  std::filesystem::remove(path);
  return model;
}

SyntheticSpec small(const std::string& architecture) {
  SyntheticSpec spec;
  spec.architecture = architecture;
  spec.n_layer = 2;
  spec.n_embd = 64;
  spec.n_ff = 96;
  spec.n_head = 4;
  spec.n_head_kv = 2;
  spec.head_dim = spec.n_rot = 32;
  spec.n_vocab = 96;
  if (architecture == "qwen3moe" || architecture == "minimax-m2") {
    spec.n_expert = 5;
    spec.n_expert_used = 2;
  }
  return spec;
}

std::shared_ptr<engine::Gpu> gpu() {
  auto found = engine::open_cuda_gpu();
  REQUIRE_MESSAGE(found.ok(), found.failure().to_string());
  return *found;
}

ContextOptions options(const std::string& k = "f16", const std::string& v = "f16") {
  ContextOptions chosen;
  chosen.n_ctx = 512;
  chosen.n_ubatch = 17;
  chosen.n_threads = 1;
  chosen.cache_type_k = k;
  chosen.cache_type_v = v;
  return chosen;
}

ContextOptions on(std::shared_ptr<engine::Gpu> device, ContextOptions chosen,
                  int n_gpu_layers = engine::kAllLayers) {
  chosen.gpu = std::move(device);
  chosen.n_gpu_layers = n_gpu_layers;
  return chosen;
}

int best(std::span<const float> logits) {
  return static_cast<int>(std::ranges::max_element(logits) - logits.begin());
}

// Logits of a prompt (in ubatches of many rows and of few), then tokens one by one, each the best after the one before:
// REQUIREs that both contexts see the same, but for `may_differ` rows. Where experts are all but equally good, another
// one may be chosen.
void require_alike(Context& got, Context& want, const std::vector<int>& prompt, int n_more, double bound,
                   int may_differ = 0) {
  int differ = 0;
  const auto compare = [&](std::span<const float> a, std::span<const float> b) {
    const auto difference = fixtures::compare({a.begin(), a.end()}, {b.begin(), b.end()});
    const bool alike = difference.rms < bound && best(a) == best(b);
    differ += alike ? 0 : 1;
    if (!alike) {
      MESSAGE("rms of the difference: " << difference.rms << ", best " << best(a) << " and " << best(b));
    }
  };
  const auto all = fixtures::logits(got, prompt), all_want = fixtures::logits(want, prompt);
  const size_t width = all.size() / prompt.size();
  for (size_t at = 0; at < all.size(); at += width) {
    compare(std::span(all).subspan(at, width), std::span(all_want).subspan(at, width));
  }
  int token = 7;
  for (int i = 0; i < n_more; ++i) {
    const auto of_gpu = got.eval(0, {&token, 1}), of_cpu = want.eval(0, {&token, 1});
    REQUIRE_MESSAGE(of_gpu.ok(), of_gpu.failure().to_string());
    REQUIRE(of_cpu.ok());
    compare(*of_gpu, *of_cpu);
    token = best(*of_cpu);
  }
  REQUIRE(differ <= may_differ);
}

constexpr double kBound =
    0.03;  // rounding of activations, to int8 on the CPU and to float16 for prompts here

}  // namespace

TEST_CASE("whole models on the GPU: logits and greedy text as on the CPU") {
  for (const std::string architecture : {"llama", "qwen2", "qwen3moe", "minimax-m2"}) {
    CAPTURE(architecture);
    SyntheticSpec spec = small(architecture);
    spec.n_layer = 1;
    if (architecture == "llama") {
      spec.types = {{"attn_v", "f16"}, {"ffn_down", "f16"}, {"output", "q4_0"}};
    }
    const auto model = make(spec);
    auto want = fixtures::open(model, options()), got = fixtures::open(model, on(gpu(), options()));
    CHECK(got->info().n_gpu_layers == 2);
    require_alike(*got, *want, fixtures::some_tokens(18, spec.n_vocab), 2, kBound,  // many rows, then one
                  spec.n_expert > 0 ? 2 : 0);
    CHECK((got->weight_bytes_read() > 0 && got->weight_bytes_read() <= 2 * want->weight_bytes_read()));
  }
}

#ifndef AR_ON_DEVICE
TEST_CASE("steps of few rows are launched as graphs of their shape, recorded when it comes again") {
  SyntheticSpec spec = small("llama");
  spec.n_layer = 1;
  const auto model = make(spec);
  const int before = simt::graphs_captured(), launched = simt::graphs_launched();
  const auto run = [&] {
    auto context = fixtures::open(model, on(gpu(), options()));
    const int token = 3;
    for (int i = 0; i < 3; ++i) {
      REQUIRE(context->eval(0, {&token, 1}).ok());
    }
    const auto four = fixtures::some_tokens(4, spec.n_vocab), three = fixtures::some_tokens(3, spec.n_vocab);
    REQUIRE(context->eval(0, four).ok());
    const auto last = context->eval(0, three);
    REQUIRE(last.ok());
    return std::vector<float>(last->begin(), last->end());
  };
  const std::vector<float> logits = run();
  CHECK(simt::graphs_captured() - before == 2);  // of one row, of up to four
  CHECK(simt::graphs_launched() - launched == 3);
  simt::set_graphs(false);
  const std::vector<float> without = run();
  simt::set_graphs(true);
  CHECK(simt::graphs_launched() - launched == 3);
  CHECK(without == logits);
}

TEST_CASE(
    "the host's memory of residual stream and logits is locked while a context is open, where it can be") {
  SyntheticSpec spec = small("llama");
  spec.n_layer = 1;
  const auto model = make(spec);
  const std::vector<int> prompt = fixtures::some_tokens(3, spec.n_vocab);
  const auto run = [&](int locked) {
    auto context = fixtures::open(model, on(gpu(), options()));
    CHECK(simt::locked() == locked);
    const auto last = context->eval(0, prompt);
    REQUIRE(last.ok());
    return std::vector<float>(last->begin(), last->end());
  };
  const std::vector<float> logits = run(2);
  CHECK(simt::locked() == 0);
  simt::set_locks(false);
  CHECK(run(0) == logits);
  simt::set_locks(true);
}
#endif

TEST_CASE("quantized caches on the GPU, and parts of a model there") {
  const SyntheticSpec spec = small("qwen3");
  const auto model = make(spec);
  const auto prompt = fixtures::some_tokens(3, spec.n_vocab);
  const auto device = gpu();
  // Values near a boundary between codes fall to either side.
  const auto try_layers = [&](const char* k, const char* v, int layers, double bound) {
    CAPTURE(layers);
    const ContextOptions chosen = options(k, v);
    auto got = fixtures::open(model, on(device, chosen, layers)), want = fixtures::open(model, chosen);
    CHECK(got->info().n_gpu_layers == layers);
    CHECK(got->info().kv_bytes == want->info().kv_bytes);
    require_alike(*got, *want, prompt, 2, bound);
  };
  try_layers("tbq4_0", "tbq3_0", 3, 0.15);
  try_layers("tbq4_0", "tbq3_0", 2, 0.15);
  try_layers("q8_0", "f32", 1, kBound);
  const std::vector<PartId> everywhere{{Part::kAttn, 0}, {Part::kFfn, 0}, {Part::kAttn, 1}, {Part::kFfn, 1}};
  auto split = fixtures::open(model, on(device, options()), everywhere),
       want = fixtures::open(model, options());
  require_alike(*split, *want, prompt, 1, kBound);
}

TEST_CASE("a sink and a tail in f16 on the GPU read what the CPU reads") {
  SyntheticSpec spec = small("llama");
  spec.n_layer = spec.n_head = spec.n_head_kv = 1;
  spec.n_embd = spec.n_ff = spec.n_vocab = 32;
  spec.type = "f16";  // what weights and activations are rounded to is less than what copies change
  const auto model = make(spec);
  ContextOptions chosen = options("tbq3_0", "q4_0");
  chosen.n_ubatch = 145;
  chosen.kv_sink = 100;
  chosen.kv_tail = 30;
  auto want = fixtures::open(model, chosen), got = fixtures::open(model, on(gpu(), chosen));
  CHECK(got->info().exact_bytes > 0);
  const auto prompt = fixtures::some_tokens(290, spec.n_vocab);
  // Of the rows behind the sink, which see it, and the tail, and at the end a page that is neither.
  const auto behind = [&](Context& context) {
    const auto all = fixtures::logits(context, prompt);
    return std::vector<float>(all.begin() + int64_t{128} * spec.n_vocab, all.end());
  };
  const auto of_cpu = behind(*want), of_gpu = behind(*got);
  chosen.kv_sink = 0;
  const auto no_sink = behind(*fixtures::open(model, chosen));
  chosen.kv_sink = 100;
  chosen.kv_tail = 0;
  const auto no_tail = behind(*fixtures::open(model, chosen));
  const double apart = fixtures::compare(of_gpu, of_cpu).rms;
  const double by_copies =
      std::min(fixtures::compare(no_sink, of_cpu).rms, fixtures::compare(no_tail, of_cpu).rms);
  CAPTURE(apart);
  CAPTURE(by_copies);
  CHECK(apart < by_copies / 3);
  CHECK(apart < kBound);
}

TEST_CASE("sequences forked, saved and restored on the GPU go on to the bit, as does a context opened anew") {
  SyntheticSpec spec = small("qwen3moe");
  spec.n_layer = 1;
  const auto model = make(spec);
  const auto device = gpu();
  ContextOptions chosen = on(device, options("tbq4_0", "q8_0"));
  chosen.n_seqs = 2;
  chosen.kv_unified = true;
  auto first = fixtures::open(model, chosen);
  const auto prompt = fixtures::some_tokens(6, spec.n_vocab);
  REQUIRE(first->eval(0, prompt).ok());
  first->fork(0, 1, 6);
  const std::string path =
      (std::filesystem::temp_directory_path() / ("simt-saved-" + std::to_string(::getpid()))).string();
  REQUIRE(first->save(0, prompt, path).ok());
  const int next = 5;
  const auto go_on = [&](Context& context, int seq) {
    const auto logits = context.eval(seq, {&next, 1});
    REQUIRE_MESSAGE(logits.ok(), logits.failure().to_string());
    return std::vector<float>(logits->begin(), logits->end());
  };
  const auto want = go_on(*first, 0);
  CHECK(fixtures::same_bits(go_on(*first, 1), want));
  first.reset();
  auto second = fixtures::open(model, chosen);
  auto saved = engine::SequenceReader::open(path);
  REQUIRE(saved.ok());
  const auto restored = second->restore(1, *saved);
  std::filesystem::remove(path);
  REQUIRE_MESSAGE(restored.ok(), restored.failure().to_string());
  CHECK(fixtures::same_bits(go_on(*second, 1), want));
  REQUIRE(second->eval(0, prompt).ok());
  CHECK(fixtures::same_bits(go_on(*second, 0), want));
}

TEST_CASE("what a GPU cannot do is told before anything is loaded") {
  SyntheticSpec spec = small("llama");
  spec.head_dim = spec.n_rot = 40;
  spec.n_head = 8;
  const auto odd = make(spec);
  const auto refused = Context::open(odd, on(gpu(), options()));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.failure().to_string().find("no kernel for f16 with heads of 40 values") != std::string::npos);
#ifndef AR_ON_DEVICE
  const auto model = make(small("llama"));
  ContextOptions chosen = options("f16", "f16");
  chosen.n_ctx = 4096;
  constexpr uint64_t kReserve = uint64_t{192} << 20;
  simt::set_device_memory(kReserve + (uint64_t{2} << 20));
  const auto large = Context::open(model, on(gpu(), chosen));
  REQUIRE_FALSE(large.ok());
  const std::string why = large.failure().to_string();
  CAPTURE(why);
  CHECK(why.find("needed on simt for weights") != std::string::npos);
  CHECK(why.find("use --ctx-size") != std::string::npos);
  const auto digits = why.substr(why.find("--ctx-size") + 11);
  chosen.n_ctx = std::stoi(digits);
  CHECK(Context::open(model, on(gpu(), chosen)).ok());
  simt::set_device_memory(kReserve);
  CHECK(Context::open(model, on(gpu(), chosen)).failure().to_string().find("--n-gpu-layers 0 (the CPU)") !=
        std::string::npos);
  simt::set_device_memory(uint64_t{1} << 30);
#endif
}
