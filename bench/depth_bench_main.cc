// What a token costs at depth: decode of a model of random weights with so many tokens in the cache, by types of the
// cache, and, where one is given, llama-bench at the same depth. The cache is filled with random rows: reading a prompt
// of 32K tokens would take hours. Everything interleaved, medians.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <random>

#include "bench/dense_models.h"
#include "bench/study_runs.h"
#include "src/base/stats.h"
#include "src/engine/context.h"
#include "src/engine/saved_sequence.h"
#include "src/os/files.h"

namespace {

using bench::fail;
using bench::must;

// Of the logits' standard deviation, against a cache of f32, before anything is timed: three-bit rows of random
// keys are that far off, nothing else is.
constexpr double kMostMoved = 0.5;

struct Options {
  bench::DenseShape shape;
  std::string type = "q4_0";
  std::vector<std::string> kv = {"f16/f16",       "q8_0/q8_0",     "q4_0/q4_0",    "tbq4_0/tbq4_0",
                                 "tbq4_0/tbq3_0", "tbq3_0/tbq3_0", "tcq4_0/tcq3_0"};
  std::vector<std::string> peer_kv = {"f16/f16", "q8_0/q8_0", "q4_0/q4_0"};
  std::vector<int> depths = {0, 1024, 8192, 16384, 32768};
  int peer_most = 8192;  // deeper takes llama-bench minutes a round
  int peer_rounds = 1;   // of a depth: each reads the whole prompt
  int rounds = 5, tokens = 8, threads = 2;
  std::string out, peer;
};

std::pair<std::string, std::string> sides(const std::string& pair) {
  const size_t slash = pair.find('/');
  if (slash == std::string::npos) {
    fail(fmt::format("'{}' is no pair of KV types such as q8_0/q4_0", pair));
  }
  return {pair.substr(0, slash), pair.substr(slash + 1)};
}

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& dir)
      : path_((dir.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(dir)) /
              fmt::format("depth-bench-{}-{}.seq", ::getpid(), ++made)) {}
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_; }

 private:
  static inline int made = 0;
  std::filesystem::path path_;
};

// The pages of a saved sequence, and its header: the cache they are of (saved_sequence.h).
struct SavedPage {
  base::Json shape;
  std::string bytes;

  SavedPage(const std::string& path, size_t n_tokens) {
    const std::string text = must(os::read_file(path, size_t{1} << 30));
    uint64_t length = 0;
    std::memcpy(&length, text.data() + 8, sizeof length);
    shape = must(base::parse_json(text.substr(16, length), path));
    const size_t begin = 16 + length + n_tokens * sizeof(int);
    bytes = text.substr(begin, text.size() - begin - sizeof(uint64_t));
  }
};

// A context with one pair of types, filled to the largest depth.
class Cache {
 public:
  Cache(std::shared_ptr<const engine::Model> model, const std::string& pair, const Options& options)
      : depth_(std::ranges::max(options.depths)), n_vocab_(options.shape.n_vocab) {
    engine::ContextOptions chosen;
    chosen.n_ctx = depth_ + std::max(256, options.tokens);
    chosen.n_ubatch = 64;
    chosen.n_threads = options.threads;
    std::tie(chosen.cache_type_k, chosen.cache_type_v) = sides(pair);
    context_ = must(engine::Context::open(std::move(model), chosen));
  }

  std::vector<float> logits(int n) {
    std::vector<float> all;
    must(context_->eval_all(0, fixtures::some_tokens(n, n_vocab_), all));
    context_->truncate(0, 0);
    return all;
  }

  // A page of rows that tokens gave, over and over, to the largest depth.
  void fill(const Options& options) {
    const std::vector<int> tokens = fixtures::some_tokens(kernels::kPageTokens, n_vocab_);
    const TemporaryFile one(options.shape.dir), all(options.shape.dir);
    must(context_->eval(0, tokens));
    must(context_->save(0, tokens, one.path()));
    context_->truncate(0, 0);
    SavedPage page(one.path(), tokens.size());
    std::vector<int> repeated;
    while (static_cast<int>(repeated.size()) < depth_) {
      repeated.insert(repeated.end(), tokens.begin(), tokens.end());
    }
    page.shape["n_tokens"] = repeated.size();
    auto writer = must(engine::SequenceWriter::create(all.path(), base::dump_line(page.shape), repeated));
    for (size_t at = 0; at < repeated.size(); at += tokens.size()) {
      must(writer.write(std::as_bytes(std::span(page.bytes))));
    }
    must(writer.commit());
    auto saved = must(engine::SequenceReader::open(all.path()));
    must(context_->restore(0, saved));
  }

  // To be called with ever smaller depths.
  double decode_tps(int depth, int n) {
    context_->truncate(0, depth);
    const std::vector<int> tokens = fixtures::some_tokens(n, n_vocab_);
    const auto begin = std::chrono::steady_clock::now();
    for (const int token : tokens) {
      must(context_->eval(0, std::span(&token, 1)));
    }
    const double s = bench::seconds_since(begin);
    return n / s;
  }

 private:
  int depth_, n_vocab_;
  std::unique_ptr<engine::Context> context_;
};

struct Series {
  std::string name;
  std::vector<double> tps;
};

void report_depth(int depth, const std::vector<Series>& all, bench::Report& report) {
  const double f16 = all.empty() ? 0 : base::median(all.front().tps);
  for (const Series& one : all) {
    const double tps = base::median(one.tps);
    report.line(fmt::format("| {} | {} | {:.1f} | {:.1f} to {:.1f} | {:.2f} |", depth, one.name, tps,
                            std::ranges::min(one.tps), std::ranges::max(one.tps), f16 > 0 ? tps / f16 : 0));
  }
}

int measure(const Options& options, int argc, char** argv) {
  bench::Report report("depth-bench: decode by depth and types of the KV cache", argc, argv);
  report.line(
      fmt::format("{} layers, width {}, {}, weights {}; {} threads; {} rounds of {} tokens, interleaved, "
                  "medians; the last column in "
                  "terms of the first row of each depth. Before, logits over each cache are compared with "
                  "those over f32.\n",
                  options.shape.n_layer, options.shape.n_embd, options.shape.n_ff, options.type,
                  options.threads, options.rounds, options.tokens));
  const bench::DenseModel file(options.shape, options.type);
  const auto model = must(engine::load_model(file.path(), {}));
  std::vector<std::unique_ptr<Cache>> caches;
  const std::vector<float> exact = Cache(model, "f32/f32", options).logits(32);
  for (const std::string& pair : options.kv) {
    caches.push_back(std::make_unique<Cache>(model, pair, options));
    if (const double difference = bench::moved(caches.back()->logits(32), exact);
        !(difference < kMostMoved)) {
      fail(fmt::format("{} moves the logits by {:.3f} of their standard deviation; nothing is timed", pair,
                       difference));
    }
    caches.back()->fill(options);
  }
  report.line("| depth | KV | decode tok/s | from, to | of the first |");
  report.line("|---|---|---|---|---|");
  std::vector<int> depths = options.depths;
  std::ranges::sort(depths, std::greater());
  for (const int depth : depths) {
    std::vector<Series> all;
    for (const std::string& pair : options.kv) {
      all.push_back({pair, {}});
    }
    const bool beside = !options.peer.empty() && depth <= options.peer_most;
    for (const std::string& pair : options.peer_kv) {
      all.push_back({"llama-bench " + pair, {}});
    }
    all.resize(options.kv.size() + (beside ? options.peer_kv.size() : 0));
    for (int round = -1; round < options.rounds; ++round) {
      for (size_t i = 0; i < caches.size(); ++i) {
        const double tps = caches[i]->decode_tps(depth, options.tokens);
        if (round >= 0) {
          all[i].tps.push_back(tps);
        }
      }
      fmt::print(stderr, "depth {}, round {} of {}\n", depth, round + 1, options.rounds);
      for (size_t i = caches.size(); i < all.size() && round >= 0 && round < options.peer_rounds; ++i) {
        const auto [k, v] = sides(options.peer_kv[i - caches.size()]);
        all[i].tps.push_back(bench::llama_bench_tps(
            options.peer, {"-m", file.path(), "-t", std::to_string(options.threads), "-p", "0", "-n",
                           std::to_string(options.tokens), "-d", std::to_string(depth), "-ctk", k, "-ctv", v,
                           "-fa", "1"})[1]);
      }
    }
    report_depth(depth, all, report);
  }
  return report.save(options.out) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"decode by depth and types of the KV cache"};
  app.add_option("--type", options.type, "type of the weights");
  app.add_option("--kv", options.kv, "pairs of KV types; the first is what the others are compared with")
      ->delimiter(',');
  app.add_option("--depths", options.depths, "tokens in the cache")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--threads", options.threads, "threads")->check(CLI::Range(1, 1024));
  bench::add_options(app, options.shape);
  app.add_option("--rounds", options.rounds, "rounds")->check(CLI::Range(1, 10000));
  app.add_option("--tokens", options.tokens, "tokens of a round")->check(CLI::Range(1, 10000));
  app.add_option("--llama-bench", options.peer, "llama.cpp's llama-bench, to compare with");
  app.add_option("--llama-bench-kv", options.peer_kv, "pairs of KV types for it")->delimiter(',');
  app.add_option("--llama-bench-rounds", options.peer_rounds, "in how many rounds it takes part")
      ->check(CLI::Range(1, 10000));
  app.add_option("--llama-bench-most", options.peer_most, "the largest depth for it");
  app.add_option("--out", options.out, "write the results there, such as results/depth-bench.md");
  CLI11_PARSE(app, argc, argv);
  try {
    if (options.kv.empty() || options.depths.empty()) {
      fail("no KV types or no depths");
    }
    options.shape.n_ctx = std::ranges::max(options.depths) + options.tokens + 256;
    return measure(options, argc, argv);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "depth-bench: {}\n", problem.what());
    return 1;
  }
}
