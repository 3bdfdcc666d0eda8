// What a token costs, by type of the weights: decode and prefill of a model of random weights, with activations rounded
// to int8 and exact ones, against the time of only reading the weights and, where one is given, llama-bench on the same
// file. Everything interleaved, medians.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>

#include "bench/dense_models.h"
#include "bench/study_runs.h"
#include "kernels/dots.h"
#include "kernels/threads.h"
#include "src/base/stats.h"
#include "src/engine/context.h"

namespace {

using bench::fail;
using bench::moved;
using bench::must;
using bench::seconds_since;

constexpr double kMostMoved = 0.1;  // of the logits' standard deviation, before anything is timed

struct Options {
  std::vector<std::string> types = {"f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "q3_k", "iq4_xs"};
  std::vector<int> threads = {2};
  bench::DenseShape shape;
  int rounds = 5, tokens = 16, prompt = 512;
  std::string out, peer, dots;
};

// One configuration of the engine on one model.
class Ours {
 public:
  Ours(std::shared_ptr<const engine::Model> model, const Options& options, int threads,
       const char* activations)
      : tokens_(fixtures::some_tokens(options.tokens, options.shape.n_vocab)),
        prompt_(fixtures::some_tokens(options.prompt, options.shape.n_vocab)) {
    engine::ContextOptions chosen;
    chosen.n_ctx = std::max(options.tokens, options.prompt) + 256;
    chosen.n_threads = threads;
    chosen.activations = activations;
    context_ = must(engine::Context::open(std::move(model), chosen));
  }
  std::vector<float> logits() {
    std::vector<float> all;
    must(context_->eval_all(0, tokens_, all));
    context_->truncate(0, 0);
    return all;
  }
  double decode_tps() {
    const auto begin = std::chrono::steady_clock::now();
    for (const int token : tokens_) {
      must(context_->eval(0, std::span(&token, 1)));
    }
    const double s = seconds_since(begin);
    context_->truncate(0, 0);
    return static_cast<double>(tokens_.size()) / s;
  }
  double prefill_tps() {
    const auto begin = std::chrono::steady_clock::now();
    must(context_->eval(0, prompt_));
    const double s = seconds_since(begin);
    context_->truncate(0, 0);
    return static_cast<double>(prompt_.size()) / s;
  }

 private:
  std::vector<int> tokens_, prompt_;
  std::unique_ptr<engine::Context> context_;
};

constexpr size_t kAhead = 4096;  // bytes that a thread asks for ahead, into L2
constexpr int kIntoL2 = 2;

// GB/s of adding up the weights' bytes as words, rows shared out as the engine does: the floor under decode.
double read_gbps(const engine::Model& model, int threads) {
  const auto pool = must(kernels::ThreadPool::create(threads, "--threads"));
  std::vector<kernels::Matrix> all;
  for (const engine::LayerWeights& w : model.layers) {
    all.insert(all.end(), {w.q, w.k, w.v, w.o, w.gate, w.up, w.down});
  }
  std::atomic<uint64_t> sink{0};
  uint64_t bytes = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (const kernels::Matrix& w : all) {
    const size_t n = static_cast<size_t>(w.rows) * w.row_bytes / 64;
    const auto region = [&](kernels::Worker& worker) {
      worker.for_chunks(static_cast<int64_t>(n), 1024, [&](int64_t first, int64_t last) {
        using Word [[gnu::vector_size(16)]] = uint64_t;
        Word a{}, b{}, c{}, d{};  // in registers: memory must be what limits this
        for (int64_t i = first; i < last; ++i) {
          Word line[4];
          std::memcpy(line, w.data + i * 64, 64);
          const size_t ahead = std::min(static_cast<size_t>(i) * 64 + kAhead, (n - 1) * 64);
          __builtin_prefetch(w.data + ahead, 0, kIntoL2);
          a += line[0];
          b += line[1];
          c += line[2];
          d += line[3];
        }
        a += b + c + d;
        sink += a[0] + a[1];
      });
    };
    pool->run(std::cref(region));
    bytes += n * 64;
  }
  return static_cast<double>(bytes) / seconds_since(begin) / 1e9;
}

void measure_type(const Options& options, const std::string& type, bench::Report& report) {
  const bench::DenseModel file(options.shape, type);
  const auto model = must(engine::load_model(file.path(), {}));
  const double bytes = static_cast<double>(engine::bytes_per_token(*model));
  for (const int threads : options.threads) {
    Ours rounded(model, options, threads, "q8"), exact(model, options, threads, "f32");
    const double difference = moved(rounded.logits(), exact.logits());  // every page is mapped now
    if (!(difference < kMostMoved)) {
      fail(fmt::format(
          "{}: rounded activations move the logits by {:.3f} of their standard deviation; nothing is timed",
          type, difference));
    }
    std::vector<double> decode, decode_exact, prefill, prefill_exact, floor, peer_decode, peer_prefill;
    for (int round = 0; round < options.rounds; ++round) {
      floor.push_back(read_gbps(*model, threads));
      decode.push_back(rounded.decode_tps());
      decode_exact.push_back(exact.decode_tps());
      prefill.push_back(rounded.prefill_tps());
      if (round == 0) {
        prefill_exact.push_back(exact.prefill_tps());
      }
      if (!options.peer.empty()) {
        const auto tps = bench::llama_bench_tps(
            options.peer, {"-m", file.path(), "-t", std::to_string(threads), "-p",
                           std::to_string(options.prompt), "-n", std::to_string(options.tokens)});
        peer_prefill.push_back(tps[0]);
        peer_decode.push_back(tps[1]);
      }
    }
    const double ours = base::median(decode), read = base::median(floor);
    const double peer = peer_decode.empty() ? 0 : base::median(peer_decode);
    const double peer_p = peer_prefill.empty() ? 0 : base::median(peer_prefill);
    report.line(fmt::format(
        "| {} | {} | {:.0f} | {:.1f} | {:.1f} | {:.1f} | {:.2f} | {:.1f} | {:.1f} | {:.2f} | {:.0f} | "
        "{:.0f} | {:.0f} | {:.2f} |",
        type, threads, bytes / 1e6, read, ours, ours * bytes / 1e9, ours * bytes / 1e9 / read,
        base::median(decode_exact), peer, peer > 0 ? ours / peer : 0, base::median(prefill),
        base::median(prefill_exact), peer_p, peer_p > 0 ? base::median(prefill) / peer_p : 0));
  }
}

int measure(const Options& options, int argc, char** argv) {
  bench::Report report("weights-bench: decode and prefill by type of the weights", argc, argv);
  report.line(fmt::format(
      "{} layers, width {}, {}, vocabulary {}; integer dots on {}; {} rounds of {} tokens, prompts of "
      "{}, interleaved, medians (exact prefill: once); 0: not measured. Before each, rounded and exact "
      "logits are "
      "compared.\n",
      options.shape.n_layer, options.shape.n_embd, options.shape.n_ff, options.shape.n_vocab,
      kernels::dots_isa(), options.rounds, options.tokens, options.prompt));
  report.line(
      "| type | threads | MB per token | reading GB/s | decode tok/s | GB/s | of reading | exact tok/s | "
      "llama-bench tok/s | ratio | prefill tok/s | exact | llama-bench | ratio |");
  report.line("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
  for (const std::string& type : options.types) {
    measure_type(options, type, report);
  }
  return report.save(options.out) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"decode and prefill by type of the weights"};
  app.add_option("--types", options.types, "types of the weights")->delimiter(',');
  app.add_option("--threads", options.threads, "threads")->delimiter(',')->check(CLI::Range(1, 1024));
  bench::add_options(app, options.shape);
  app.add_option("--rounds", options.rounds, "rounds")->check(CLI::Range(1, 10000));
  app.add_option("--tokens", options.tokens, "tokens of a round")->check(CLI::Range(1, 10000));
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->check(CLI::Range(1, 10000));
  app.add_option("--dots", options.dots, "instruction set of the integer dots");
  app.add_option("--llama-bench", options.peer, "llama.cpp's llama-bench, to compare with");
  app.add_option("--out", options.out, "write the results there, such as results/weights-bench.md");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!kernels::force_dots_isa(options.dots)) {
      fail(fmt::format("no '{}' here; one of: {}", options.dots, fmt::join(kernels::dots_isas(), ", ")));
    }
    return measure(options, argc, argv);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "weights-bench: {}\n", problem.what());
    return 1;
  }
}
