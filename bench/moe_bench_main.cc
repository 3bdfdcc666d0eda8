// What choosing experts costs: decode of a mixture of experts against a dense model that reads the same bytes per
// token, interleaved. First, with the choice fixed, the two must compute the same.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>

#include "bench/must.h"
#include "bench/study_runs.h"
#include "src/base/stats.h"
#include "src/engine/context.h"
#include "tests/engine/synthetic_model.h"

namespace {

using bench::fail;
using bench::must;
using fixtures::SyntheticSpec;

constexpr int kVocab = 4096;

struct Options {
  int n_layer = 6, n_embd = 2048, n_ff = 768, n_expert = 64, n_expert_used = 8;
  int rounds = 21, tokens = 8, threads = 2;
  std::string type = "q4_k", dir, out;
};

SyntheticSpec moe_spec(const Options& options) {
  SyntheticSpec spec;
  spec.architecture = "qwen3moe";
  spec.n_layer = options.n_layer;
  spec.n_embd = options.n_embd;
  spec.n_ff = options.n_ff;
  spec.n_head = 16;
  spec.n_head_kv = 4;
  spec.head_dim = spec.n_rot = 128;
  spec.n_vocab = kVocab;
  spec.n_expert = options.n_expert;
  spec.n_expert_used = options.n_expert_used;
  spec.type = options.type;
  return spec;
}

// Files in a directory of their own, gone at the end.
class Files {
 public:
  explicit Files(const std::string& parent)
      : dir_((parent.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(parent)) /
             fmt::format("moe-bench-{}", ::getpid())) {
    std::filesystem::create_directories(dir_);
  }
  ~Files() {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  std::string write(const SyntheticSpec& spec, const std::string& name) const {
    std::string path = dir_ / name;
    if (!fixtures::write_model(spec, path)) {
      fail(fmt::format("cannot write {}; choose another --dir", path));
    }
    return path;
  }

 private:
  std::filesystem::path dir_;
};

std::unique_ptr<engine::Context> open(const std::string& path, int threads, const char* activations = "q8") {
  engine::ContextOptions options;
  options.n_ctx = 1024;
  options.n_threads = threads;
  options.activations = activations;
  return must(engine::Context::open(must(engine::load_model(path, {})), options));
}

// The largest difference of the two models' logits, in standard deviations.
double largest_difference(const Files& files, const Options& options) {
  SyntheticSpec spec = moe_spec(options);
  spec.n_layer = 1;
  spec = fixtures::fixed_choice(spec);
  // Exact products: rounded activations fall to either side of a step where sums differ in order.
  const auto moe = open(files.write(spec, "fixed.gguf"), options.threads, "f32");
  const auto dense =
      open(files.write(fixtures::dense_like(spec, "qwen3"), "wide.gguf"), options.threads, "f32");
  std::vector<float> got, want;
  must(moe->eval_all(0, fixtures::some_tokens(16, kVocab), got));
  must(dense->eval_all(0, fixtures::some_tokens(16, kVocab), want));
  double squares = 0, worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    squares += double{want[i]} * want[i];
    const double difference = std::abs(double{got[i]} - double{want[i]});
    worst = difference <= worst ? worst : difference;  // what is no number becomes the worst
  }
  return worst / std::sqrt(squares / static_cast<double>(want.size()));
}

// Milliseconds per token of decoding some after `at`.
double decode_ms(engine::Context& context, const std::vector<int>& tokens) {
  const int n_past = context.length(0);
  const auto begin = std::chrono::steady_clock::now();
  for (const int token : tokens) {
    must(context.eval(0, std::span(&token, 1)));
  }
  const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  context.truncate(0, n_past);
  return 1000 * s / static_cast<double>(tokens.size());
}

// The exit code.
int measure(const Options& options, int argc, char** argv) {
  const Files files(options.dir);
  bench::Report report("moe-bench: what choosing experts costs", argc, argv);
  const double difference = largest_difference(files, options);
  report.line(
      fmt::format("Experts of fixed weights against the same side by side in a dense layer: logits within "
                  "{:.1e} of their standard deviation.",
                  difference));
  if (!(difference < 1e-3)) {
    fail("the two models do not compute the same; nothing is timed");
  }
  SyntheticSpec moe_shape = moe_spec(options), dense_shape = moe_shape;
  dense_shape.architecture = "qwen3";
  dense_shape.n_expert = dense_shape.n_expert_used = 0;
  dense_shape.n_ff = options.n_ff * options.n_expert_used;
  const auto moe = open(files.write(moe_shape, "moe.gguf"), options.threads);
  const auto dense = open(files.write(dense_shape, "dense.gguf"), options.threads);
  for (engine::Context* context : {moe.get(), dense.get()}) {
    must(context->eval(0, fixtures::some_tokens(512, kVocab)));  // every expert's pages are mapped now
    context->truncate(0, 64);
  }
  const std::vector<int> tokens = fixtures::some_tokens(options.tokens, kVocab);
  std::vector<double> moe_ms, dense_ms, ratios;
  for (int round = -2; round < options.rounds; ++round) {
    const double m = decode_ms(*moe, tokens), d = decode_ms(*dense, tokens);
    if (round >= 0) {
      moe_ms.push_back(m);
      dense_ms.push_back(d);
      ratios.push_back(m / d);
    }
  }
  const auto row = [&](const char* name, engine::Context& context, int64_t experts, double ms) {
    const double bytes = static_cast<double>(engine::bytes_per_step(context.model(), experts));
    report.line(fmt::format("| {} | {:.0f} | {:.1f} | {:.2f} | {:.1f} | {:.1f} |", name,
                            static_cast<double>(context.model().weight_bytes) / 1e6, bytes / 1e6, ms,
                            1000 / ms, bytes / ms / 1e6));
  };
  report.line(
      fmt::format("\n{} layers, width {}, {} experts of {}, {} used, {}; {} threads; {} rounds of {} tokens "
                  "after 64, interleaved, medians:\n",
                  options.n_layer, options.n_embd, options.n_expert, options.n_ff, options.n_expert_used,
                  options.type, options.threads, options.rounds, options.tokens));
  report.line("| model | MB | MB read per token | ms per token | tok/s | GB/s |");
  report.line("|---|---|---|---|---|---|");
  row("experts", *moe, int64_t{options.n_layer} * options.n_expert_used, base::median(moe_ms));
  row("dense", *dense, 0, base::median(dense_ms));
  const auto [least, most] = std::ranges::minmax(ratios);
  report.line(
      fmt::format("\nTime of a token, experts / dense: median {:.3f} of the rounds, {:.3f} to {:.3f}.",
                  base::median(ratios), least, most));
  return report.save(options.out) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"decode of a mixture of experts against a dense model of the same active bytes"};
  app.add_option("--layers", options.n_layer, "layers")->check(CLI::Range(1, 1000));
  app.add_option("--embd", options.n_embd, "width, a multiple of 256")->check(CLI::Range(256, 1 << 16));
  app.add_option("--ff", options.n_ff, "width of one expert, a multiple of 256")
      ->check(CLI::Range(256, 1 << 16));
  app.add_option("--experts", options.n_expert, "experts")->check(CLI::Range(1, 4096));
  app.add_option("--used", options.n_expert_used, "experts of a token")->check(CLI::Range(1, 32));
  app.add_option("--type", options.type, "type of the weights")
      ->check(CLI::IsMember({"q8_0", "q3_k", "q4_k", "q6_k"}));
  app.add_option("--threads", options.threads, "threads")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", options.rounds, "rounds, each of both models")->check(CLI::Range(1, 10000));
  app.add_option("--dir", options.dir, "where the models are written; they are removed again");
  app.add_option("--out", options.out, "write the results there, such as results/moe-bench.md");
  CLI11_PARSE(app, argc, argv);
  try {
    return measure(options, argc, argv);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "moe-bench: {}\n", problem.what());
    return 1;
  }
}
