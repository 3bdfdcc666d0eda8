// tbq-eval: one text under several types of KV cache, compared with f16. Exit codes: 0 done, 2 usage, 3 the model, the
// text, the memory or the JSON file will not do, 1 a failure while evaluating.

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <random>
#include <utility>

#include "src/base/fnv.h"
#include "src/base/log.h"
#include "src/base/units.h"
#include "src/base/version.h"
#include "src/engine/eval_options.h"
#include "src/engine/evaluation_report.h"
#include "src/engine/gpu.h"
#include "src/engine/kv_calibration.h"
#include "src/engine/synthetic_model.h"
#include "src/engine/tokenizer.h"
#include "src/os/files.h"
#include "src/os/host.h"
#include "src/os/memory_file.h"
#include "src/os/proc.h"

namespace {

enum ExitCode { kDone = 0, kFailed = 1, kUsage = 2, kUnfit = 3 };

// How often a log gets a line and the JSON file what is known so far.
constexpr double kReportEvery_s = 5;

int failed(ExitCode code, const base::Error& error) {
  fmt::print(stderr, "error: {}\n", error.to_string());
  return code;
}

struct Inputs {
  std::shared_ptr<const engine::Model> model;
  std::vector<int> tokens;
  int bos = -1;
  engine::EvaluationSubject subject;
};

// Who measures, where; the model's part of it.
engine::EvaluationSubject subject_of(const engine::Model& model, std::string name) {
  const os::HostFacts host = os::read_host_facts();
  engine::EvaluationSubject subject;
  subject.model_path = std::move(name);
  subject.architecture = model.hp.architecture;
  subject.model_fingerprint = model.fingerprint;
  subject.model_bytes = model.weight_bytes;
  subject.bytes_per_token = engine::bytes_per_token(model);
  subject.hostname = host.hostname;
  subject.cpu_model = host.cpu_model;
  return subject;
}

// A file in memory, of one layer that all layers are, and tokens for every chunk.
base::Result<Inputs> load_synthetic(engine::EvalOptions& options) {
  auto spec = engine::parse_synthetic(options.synthetic);
  if (!spec) {
    return spec.failure();
  }
  const engine::SyntheticSize size = engine::size_of(*spec);
  const uint64_t needed = size.file + size.largest, available = os::read_meminfo().available;
  if (needed > available) {
    return base::error("--synthetic",
                       fmt::format("one layer and the vocabulary's tables take {}, available is {}",
                                   base::format_bytes(needed), base::format_bytes(available)),
                       "give a smaller n_vocab, n_expert or n_ff: " + options.synthetic + ",n_vocab=32000");
  }
  auto file = os::MemoryFile::create("synthetic.gguf");
  if (!file) {
    return file.failure();
  }
  base::log_info("writing {} of random weights, which {} layers share: the engine counts {}",
                 base::format_bytes(size.file), spec->n_layer, base::format_bytes(size.weights));
  if (auto written = engine::write_model(*spec, file->path()); !written) {
    return written.failure();
  }
  auto model = engine::load_model(file->path(), {});
  if (!model) {
    return model.failure();
  }
  Inputs out;
  out.model = *model;
  std::mt19937 random(spec->seed);
  const size_t n_tokens =
      static_cast<size_t>(options.evaluation.n_ctx) * static_cast<size_t>(options.evaluation.n_chunks);
  std::generate_n(std::back_inserter(out.tokens), n_tokens,
                  [&] { return static_cast<int>(random() % static_cast<unsigned>(spec->n_vocab)); });
  out.subject = subject_of(**model, "synthetic " + options.synthetic);
  out.subject.synthetic = true;
  out.subject.corpus_path = "random tokens";
  out.subject.corpus_tokens = out.tokens.size();
  options.evaluation.gpu = engine::choose_gpu(options.evaluation.n_gpu_layers);
  return out;
}

base::Result<Inputs> load(engine::EvalOptions& options) {
  if (!options.synthetic.empty()) {
    return load_synthetic(options);
  }
  auto text = os::read_file(options.corpus);
  if (!text) {
    return text.failure();
  }
  auto model = engine::load_model(options.model, {});
  if (!model) {
    return model.failure();
  }
  auto tokenizer = engine::Tokenizer::from_gguf((*model)->file, options.model);
  if (!tokenizer) {
    return tokenizer.failure();
  }
  Inputs out;
  out.model = *model;
  out.tokens = tokenizer->encode(*text, true, false);
  out.bos = tokenizer->adds_bos() ? tokenizer->bos() : -1;
  out.subject = subject_of(**model, options.model);
  out.subject.corpus_path = options.corpus;
  out.subject.corpus_hash = base::fnv1a(*text);
  out.subject.corpus_bytes = text->size();
  out.subject.corpus_tokens = out.tokens.size();
  const size_t n = out.tokens.size();
  if (n < static_cast<size_t>(options.evaluation.n_ctx)) {
    return base::error(
        options.corpus, fmt::format("has {} tokens, a chunk takes {}", n, options.evaluation.n_ctx),
        n < 4 ? "use a longer text" : fmt::format("use a longer text or --n-ctx {} or less", n));
  }
  options.evaluation.gpu = engine::choose_gpu(options.evaluation.n_gpu_layers);
  engine::ContextOptions centered;
  centered.n_gpu_layers = options.evaluation.n_gpu_layers;
  centered.gpu = options.evaluation.gpu;
  centered.n_threads = options.evaluation.n_threads;
  centered.n_ctx = options.evaluation.n_ctx;
  centered.n_ubatch = options.evaluation.n_ubatch;
  centered.kv_center = options.evaluation.kv_center;
  auto means = engine::KvMeansSource(out.model, *tokenizer).get(centered);
  if (!means) {
    return means.failure();
  }
  options.evaluation.kv_means = *std::move(means);
  return out;
}

// Says how far it is: one line over and over on a terminal, now and then a line in a log.
class Progress {
 public:
  explicit Progress(const engine::EvalOptions& options, const Inputs& inputs)
      : options_(options), inputs_(inputs) {}

  // The Error: the JSON file cannot be written, and nothing has been computed yet. Later that is no reason to stop.
  base::Result<void> operator()(const engine::Evaluation& so_far) {
    for (; n_warned_ < so_far.warnings.size(); ++n_warned_) {
      base::log_warn("{}", so_far.warnings[n_warned_]);
    }
    const double now = elapsed_s();
    const bool first = so_far.n_chunks_done == 0, last = so_far.n_chunks_done == so_far.n_chunks;
    const bool due = first || last || now - reported_s_ >= kReportEvery_s;
    const std::string line = engine::progress_line(so_far, now);
    if (terminal_) {
      fmt::print(stderr, "\r\x1b[K{}{}", std::string_view(line).substr(0, columns()), last ? "\n" : "");
      open_line_ = !last;
    } else if (due) {
      base::log_info("{}", line);
    }
    if (due && !options_.json.empty()) {
      written_ = engine::write_report(options_.json, engine::evaluation_json(so_far, inputs_.subject, {}));
    }
    reported_s_ = due ? elapsed_s() : reported_s_;
    started_ = started_ || written_;
    return started_ ? base::Result<void>() : written_;
  }
  // Ends the line on a terminal.
  void finish() {
    if (open_line_) {
      fmt::print(stderr, "\n");
      open_line_ = false;
    }
  }
  // Whether anything was computed.
  bool started() const { return started_; }
  // The last time the JSON file was written.
  const base::Result<void>& written() const { return written_; }

 private:
  // A line that wraps cannot be written over.
  static size_t columns() {
    winsize size{};
    const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known ? size.ws_col - size_t{1} : 79;
  }
  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  const engine::EvalOptions& options_;
  const Inputs& inputs_;
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double reported_s_ = 0;
  size_t n_warned_ = 0;
  bool started_ = false, open_line_ = false;
  base::Result<void> written_;
};

}  // namespace

int main(int argc, char** argv) {
  auto options = engine::parse_eval_options({argv + 1, argv + argc});
  if (!options) {
    return failed(kUsage, options.failure());
  }
  if (options->help || options->version) {
    fmt::print("{}", options->help ? engine::eval_help()
                                   : fmt::format("version: {} ({})\n", base::version(), base::commit()));
    return kDone;
  }
  const auto inputs = load(*options);
  if (!inputs) {
    return failed(kUnfit, inputs.failure());
  }
  Progress progress(*options, *inputs);
  const auto evaluation =
      engine::evaluate(inputs->model, inputs->tokens, inputs->bos, options->evaluation,
                       [&](const engine::Evaluation& so_far) { return progress(so_far); });
  progress.finish();
  if (!evaluation) {
    return failed(progress.started() ? kFailed : kUnfit, evaluation.failure());
  }
  fmt::print("{}", engine::evaluation_table(*evaluation, inputs->subject, {}));
  return progress.written() ? kDone : failed(kFailed, progress.written().failure());
}
