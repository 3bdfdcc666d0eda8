// Contexts with activations rounded to int8 (kernels/dots.h), which is what they do unless told otherwise.

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "kernels/dots.h"
#include "src/engine/reconfigure.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/synthetic_model.h"

namespace {

engine::ContextOptions options(int n_threads, int n_ubatch, const char* activations = "q8") {
  engine::ContextOptions chosen;
  chosen.n_ctx = 256;
  chosen.n_threads = n_threads;
  chosen.n_ubatch = n_ubatch;
  chosen.cache_type_k = chosen.cache_type_v = "f32";
  chosen.activations = activations;
  return chosen;
}

bool have_dots() {
  if (std::string(kernels::dots_isa()) == "scalar") {
    MESSAGE("skipped: no integer dots on this machine");
    return false;
  }
  return true;
}

// A model of a spec, written, loaded and removed again (what is mapped stays).
std::shared_ptr<const engine::Model> synthetic(const fixtures::SyntheticSpec& spec) {
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("activations-{}-{}.gguf", ::getpid(), spec.architecture);
  REQUIRE(fixtures::write_model(spec, path));
  auto model = fixtures::load(path);
  std::filesystem::remove(path);
  return model;
}

}  // namespace

TEST_CASE("rounded activations: logits do not depend on threads, ubatch or the integers' instruction set") {
  if (!have_dots()) {
    return;
  }
  fixtures::SyntheticSpec dense;
  dense.n_ff = 512;
  dense.type = "q4_k";
  dense.types = {
      {"output", "q6_k"}, {"attn_k", "q8_0"}, {"attn_v", "f16"}, {"ffn_up", "q4_0"}, {"ffn_down", "q3_k"}};
  fixtures::SyntheticSpec experts;
  experts.architecture = "qwen3moe";
  experts.n_ff = 256;
  experts.n_expert = 8;
  experts.n_expert_used = 3;
  experts.type = "q5_k";
  experts.types = {{"ffn_up_exps", "iq4_nl"}, {"ffn_down_exps", "iq4_xs"}, {"attn_q", "q5_1"}};
  fixtures::SyntheticSpec mixed =
      experts;  // products of one input that take it differently, floats among them
  mixed.types = {
      {"ffn_gate_exps", "f16"}, {"ffn_up_exps", "q2_k"}, {"ffn_down_exps", "f16"}, {"attn_q", "q4_1"}};
  for (const fixtures::SyntheticSpec& spec : {dense, experts, mixed}) {
    const auto model = synthetic(spec);
    const auto tokens = fixtures::some_tokens(90, spec.n_vocab);
    const auto base = fixtures::logits(*fixtures::open(model, options(1, 512)), tokens);
    const auto exact = fixtures::logits(*fixtures::open(model, options(1, 512, "f32")), tokens);
    const auto difference = fixtures::compare(base, exact);
    MESSAGE(spec.architecture, ": rms ", difference.rms, " of the exact logits' std");
    CHECK(difference.rms > 1e-4);  // really rounded
    for (const std::string& isa : kernels::dots_isas()) {
      if (isa == "scalar") {
        continue;
      }
      CAPTURE(isa);
      REQUIRE(kernels::force_dots_isa(isa));
      for (const int n_threads : {1, 2, 3}) {
        for (const int n_ubatch : {1, 7, 64}) {
          CAPTURE(n_threads);
          CAPTURE(n_ubatch);
          CHECK(fixtures::same_bits(
              fixtures::logits(*fixtures::open(model, options(n_threads, n_ubatch)), tokens), base));
        }
      }
    }
    REQUIRE(kernels::force_dots_isa(""));
  }
}

TEST_CASE("rounded activations: how far logits are from llama.cpp's exact ones") {
  const std::string root = fixtures::reference_path("models");
  if (root.empty() || !have_dots()) {
    MESSAGE("skipped: no reference data");
    return;
  }
  const auto tokens = fixtures::read_tokens(root + "/tokens.json");
  for (const std::string name :
       {"llama-q8_0", "llama-q4_0", "llama-q4_1", "llama-q5_0", "llama-q5_1", "llama-q2_k", "llama-q3_k_s",
        "llama-q4_k_s", "llama-q5_k_s", "llama-q6_k", "llama-iq4_nl", "llama-iq4_xs", "minimax-m2-q3_k_m"}) {
    CAPTURE(name);
    const auto model = fixtures::load(fmt::format("{}/{}.gguf", root, name));
    const auto golden = fixtures::read_floats(fmt::format("{}/{}.logits.f32", root, name));
    const auto difference =
        fixtures::compare(fixtures::logits(*fixtures::open(model, options(2, 512)), tokens), golden);
    MESSAGE(name, ": max error ", difference.max, ", rms ", difference.rms);
    CHECK(difference.rms < 0.04);  // measured: 0.012 to 0.026
    CHECK(difference.max < 0.4);   // measured: 0.28 at most
  }
}

TEST_CASE("the type of activations is an option, and part of what identifies the numbers") {
  const auto model = fixtures::load(AR_SOURCE_DIR "/tests/data/tiny.gguf");
  const auto exact = fixtures::open(model, options(1, 64, "f32"));
  CHECK(exact->info().activations == "f32");
  if (have_dots()) {
    const auto rounded = fixtures::open(model, options(1, 64));
    CHECK(rounded->info().activations == "q8");
    CHECK(engine::numerics_key(*model, rounded->info()) != engine::numerics_key(*model, exact->info()));
  }
  const auto refused = engine::Context::open(model, options(1, 64, "q4"));
  REQUIRE(!refused.ok());
  CHECK(refused.failure().to_string().find("q8, f32") != std::string::npos);
  // A machine without fast integer dots multiplies exactly, and says so.
  REQUIRE(kernels::force_dots_isa("scalar"));
  CHECK(fixtures::open(model, options(1, 64))->info().activations == "f32");
  REQUIRE(kernels::force_dots_isa(""));
}
