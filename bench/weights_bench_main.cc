// What a token costs, by type of the weights: decode and prefill of a model of random weights, with activations rounded
// to int8 and exact ones, against the time of only reading the weights and, where one is given, llama-bench on the same
// file. Everything interleaved, medians.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "bench/must.h"
#include "bench/study_runs.h"
#include "kernels/dots.h"
#include "kernels/threads.h"
#include "src/base/json.h"
#include "src/base/stats.h"
#include "src/engine/context.h"
#include "tests/engine/synthetic_model.h"

namespace {

using bench::fail;
using bench::must;
using fixtures::SyntheticSpec;

constexpr double kMostMoved = 0.1;  // of the logits' standard deviation, before anything is timed

struct Options {
  std::vector<std::string> types = {"f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "q3_k", "iq4_xs"};
  std::vector<int> threads = {2};
  int n_layer = 16, n_embd = 2048, n_ff = 5632, n_vocab = 32000;
  int rounds = 5, tokens = 16, prompt = 512;
  std::string dir, out, peer, dots;
};

// A model in a file that is gone with it.
class File {
 public:
  File(const Options& options, const std::string& type)
      : path_((options.dir.empty() ? std::filesystem::temp_directory_path()
                                   : std::filesystem::path(options.dir)) /
              fmt::format("weights-bench-{}-{}.gguf", ::getpid(), type)) {
    SyntheticSpec spec;
    spec.n_layer = options.n_layer;
    spec.n_embd = options.n_embd;
    spec.n_ff = options.n_ff;
    spec.n_head = options.n_embd / 128;
    spec.n_head_kv = std::max(1, spec.n_head / 4);
    spec.head_dim = spec.n_rot = 128;
    spec.n_vocab = options.n_vocab;
    spec.type = type;
    if (!fixtures::write_model(spec, path_)) {
      fail(fmt::format("cannot write {}; choose another --dir", path_.string()));
    }
  }
  ~File() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// One configuration of the engine on one model.
class Ours {
 public:
  Ours(std::shared_ptr<const engine::Model> model, const Options& options, int threads,
       const char* activations)
      : tokens_(fixtures::some_tokens(options.tokens, options.n_vocab)),
        prompt_(fixtures::some_tokens(options.prompt, options.n_vocab)) {
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
      uint64_t sums[8] = {};
      worker.for_chunks(static_cast<int64_t>(n), 1024, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          uint64_t words[8];
          std::memcpy(words, w.data + i * 64, 64);
          for (int k = 0; k < 8; ++k) {
            sums[k] += words[k];
          }
        }
      });
      for (const uint64_t sum : sums) {
        sink += sum;
      }
    };
    pool->run(std::cref(region));
    bytes += n * 64;
  }
  return static_cast<double>(bytes) / seconds_since(begin) / 1e9;
}

// Tokens per second of prefill and decode, from one run of llama-bench.
std::array<double, 2> peer_tps(const Options& options, const std::string& path, int threads) {
  e2e::Process process;
  if (!process.spawn({options.peer, "-m", path, "-t", std::to_string(threads), "-p",
                      std::to_string(options.prompt), "-n", std::to_string(options.tokens), "-r", "1", "-o",
                      "json"})) {
    fail("cannot start " + options.peer);
  }
  std::optional<e2e::Result> ended;
  while (!(ended = process.poll())) {
    e2e::nap_ms(20);
  }
  if (ended->code != 0) {
    fail(fmt::format("{} ended with {}: {}", options.peer, ended->code, ended->err));
  }
  const base::Json rows = must(base::parse_json(ended->out, "llama-bench"));
  std::array<double, 2> tps{};
  for (const base::Json& row : rows) {
    tps[row["n_gen"].get<int>() > 0 ? 1 : 0] = row["avg_ts"].get<double>();
  }
  return tps;
}

// How far rounded activations move the logits: root mean square, in standard deviations of the exact ones.
double moved(const std::vector<float>& rounded, const std::vector<float>& exact) {
  double error = 0, sum = 0, squares = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(double{rounded[i]} - double{exact[i]}, 2);
    sum += exact[i];
    squares += double{exact[i]} * exact[i];
  }
  const auto n = static_cast<double>(exact.size());
  return std::sqrt(error / n) / std::sqrt(squares / n - (sum / n) * (sum / n));
}

void measure_type(const Options& options, const std::string& type, bench::Report& report) {
  const File file(options, type);
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
        const auto tps = peer_tps(options, file.path(), threads);
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
      options.n_layer, options.n_embd, options.n_ff, options.n_vocab, kernels::dots_isa(), options.rounds,
      options.tokens, options.prompt));
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
  app.add_option("--layers", options.n_layer, "layers")->check(CLI::Range(1, 1000));
  app.add_option("--embd", options.n_embd, "width, a multiple of 256")->check(CLI::Range(256, 1 << 16));
  app.add_option("--ff", options.n_ff, "width of the inner layer")->check(CLI::Range(256, 1 << 16));
  app.add_option("--vocab", options.n_vocab, "vocabulary")->check(CLI::Range(256, 1 << 20));
  app.add_option("--rounds", options.rounds, "rounds")->check(CLI::Range(1, 10000));
  app.add_option("--tokens", options.tokens, "tokens of a round")->check(CLI::Range(1, 10000));
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->check(CLI::Range(1, 10000));
  app.add_option("--dots", options.dots, "instruction set of the integer dots");
  app.add_option("--llama-bench", options.peer, "llama.cpp's llama-bench, to compare with");
  app.add_option("--dir", options.dir, "where the models are written; they are removed again");
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
