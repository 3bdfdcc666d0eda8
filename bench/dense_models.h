#pragma once
// What benchmarks of whole models share: a dense model of random weights in a file, llama-bench on it, and how far two
// ways to compute it are apart.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bench/must.h"
#include "src/base/json.h"
#include "tests/e2e/process.h"
#include "tests/engine/synthetic_model.h"

namespace bench {

struct DenseShape {
  int n_layer = 16, n_embd = 2048, n_ff = 5632, n_vocab = 32000;
  int n_ctx = 2048;  // as trained
  std::string dir;   // where it is written; "": the directory of temporary files
};

inline void add_options(CLI::App& app, DenseShape& shape) {
  app.add_option("--layers", shape.n_layer, "layers")->check(CLI::Range(1, 1000));
  app.add_option("--embd", shape.n_embd, "width, a multiple of 256")->check(CLI::Range(256, 1 << 16));
  app.add_option("--ff", shape.n_ff, "width of the inner layer")->check(CLI::Range(256, 1 << 16));
  app.add_option("--vocab", shape.n_vocab, "vocabulary")->check(CLI::Range(256, 1 << 20));
  app.add_option("--dir", shape.dir, "where models and caches are written; they are removed again");
}

// A model in a file that is gone with it: heads of 128, four query heads to a KV head.
class DenseModel {
 public:
  DenseModel(const DenseShape& shape, const std::string& type)
      : path_(
            (shape.dir.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(shape.dir)) /
            fmt::format("bench-{}-{}.gguf", ::getpid(), type)) {
    fixtures::SyntheticSpec spec;
    spec.n_layer = shape.n_layer;
    spec.n_embd = shape.n_embd;
    spec.n_ff = shape.n_ff;
    spec.n_head = shape.n_embd / 128;
    spec.n_head_kv = std::max(1, spec.n_head / 4);
    spec.head_dim = spec.n_rot = 128;
    spec.n_vocab = shape.n_vocab;
    spec.n_ctx = shape.n_ctx;
    spec.type = type;
    if (!fixtures::write_model(spec, path_)) {
      fail(fmt::format("cannot write {}; choose another --dir", path_.string()));
    }
  }
  ~DenseModel() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  DenseModel(const DenseModel&) = delete;
  DenseModel& operator=(const DenseModel&) = delete;
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Tokens per second of prefill and decode (0: not measured), from one run of llama-bench.
inline std::array<double, 2> llama_bench_tps(const std::string& program,
                                             const std::vector<std::string>& args) {
  std::vector<std::string> command{program, "-r", "1", "-o", "json"};
  command.insert(command.end(), args.begin(), args.end());
  e2e::Process process;
  if (!process.spawn(command)) {
    fail("cannot start " + program);
  }
  std::optional<e2e::Result> ended;
  while (!(ended = process.poll())) {
    e2e::nap_ms(20);
  }
  if (ended->code != 0) {
    fail(fmt::format("{} ended with {}: {}", program, ended->code, ended->err));
  }
  const base::Json rows = must(base::parse_json(ended->out, "llama-bench"));
  std::array<double, 2> tps{};
  for (const base::Json& row : rows) {
    tps[row["n_gen"].get<int>() > 0 ? 1 : 0] = row["avg_ts"].get<double>();
  }
  return tps;
}

// How far logits are from exact ones: root mean square, in standard deviations of the exact.
inline double moved(const std::vector<float>& got, const std::vector<float>& exact) {
  double error = 0, sum = 0, squares = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(double{got[i]} - double{exact[i]}, 2);
    sum += exact[i];
    squares += double{exact[i]} * exact[i];
  }
  const auto n = static_cast<double>(exact.size());
  return std::sqrt(error / n) / std::sqrt(squares / n - (sum / n) * (sum / n));
}

}  // namespace bench
