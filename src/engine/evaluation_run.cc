#include "src/engine/evaluation_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "src/engine/context.h"

namespace engine {
namespace {

// Decoded before those that are timed: the other pairs' caches have just passed through the processor's.
constexpr int kDecodeWarmup = 4;

// Floats need no copies in f16.
bool is_quantized(const std::string& type) {
  const kernels::KvFormat* format = kernels::find_kv_format(type);
  return format != nullptr && format->group_values > 0;
}

class Run {
 public:
  Run(const EvaluationOptions& options, Evaluation& out) : options_(options), out_(out) {}

  base::Result<void> open(const std::shared_ptr<const Model>& model);
  base::Result<void> go(std::span<const int> tokens, const OnChunk& on_chunk);

 private:
  base::Result<void> score(const ScoredRow& row);
  base::Result<void> time_decode(size_t pair, std::span<const int> held);
  base::Error at_fault(size_t pair, base::Error failure) const;

  const EvaluationOptions& options_;
  Evaluation& out_;
  std::vector<std::unique_ptr<Context>> contexts_;
  size_t n_vocab_ = 0, n_group_ = 0;
  // What the reference said of the rows of a group: [n_group x n_vocab].
  std::vector<float> reference_logits_;
  std::vector<TokenScore> reference_scores_;
};

base::Result<void> Run::open(const std::shared_ptr<const Model>& model) {
  for (const KvPair& pair : options_.pairs) {
    ContextOptions with;
    with.n_ctx = options_.n_ctx;
    with.n_ubatch = options_.n_ubatch;
    with.n_batch = std::max(with.n_batch, with.n_ubatch);  // which a ubatch is cut to
    with.n_threads = options_.n_threads;
    with.n_gpu_layers = options_.n_gpu_layers;
    with.gpu = options_.gpu;
    with.cache_type_k = pair.k;
    with.cache_type_v = pair.v;
    if (!contexts_.empty()) {
      with.kv_first_last = options_.kv_first_last;
      with.kv_center = options_.kv_center;
      with.kv_means = options_.kv_means;
    }
    const std::string edge = with.kv_first_last.substr(0, with.kv_first_last.find(','));
    if (is_quantized(pair.k) || is_quantized(pair.v) || (edge != "off" && is_quantized(edge))) {
      with.kv_sink = options_.kv_sink;
      with.kv_tail = options_.kv_tail;
    }
    auto opened = Context::open(model, with);
    if (!opened) {
      return base::error(
          pair.name(), opened.failure().to_string(),
          contexts_.empty() ? "" : "all pairs are open together: evaluate fewer of them at once");
    }
    const ContextInfo& info = (*opened)->info();
    const HParams& hp = model->hp;
    const double values = 2.0 * info.n_ctx * hp.n_layer * hp.n_head_kv * hp.head_dim;
    out_.pairs.push_back({.pair = pair,
                          .kv_bytes = info.kv_bytes,
                          .bits_per_value = static_cast<double>(info.kv_bytes) * 8 / values,
                          .k_bits = info.k_bits_per_value,
                          .v_bits = info.v_bits_per_value,
                          .k_rotated = info.k_rotated,
                          .v_rotated = info.v_rotated,
                          .kv_first_last = info.kv_first_last,
                          .kv_center_id = info.kv_center_id,
                          .exact_bytes = info.exact_bytes});
    for (const std::string& warning : info.fallbacks) {
      if (std::ranges::find(out_.warnings, warning) == out_.warnings.end()) {
        out_.warnings.push_back(warning);
      }
    }
    contexts_.push_back(*std::move(opened));
  }
  const ContextInfo& info = contexts_.front()->info();
  out_.n_ctx = options_.n_ctx;
  out_.n_ctx_allocated = info.n_ctx;
  out_.n_ubatch = info.n_ubatch;
  out_.n_threads = info.n_threads;
  out_.backend = info.backend;
  out_.activations = info.activations;
  out_.kv_sink = options_.kv_sink;
  out_.kv_tail = options_.kv_tail;
  n_vocab_ = static_cast<size_t>(model->hp.n_vocab);
  n_group_ =
      std::clamp<size_t>(kReferenceBytes / (n_vocab_ * sizeof(float)), 1, static_cast<size_t>(info.n_ubatch));
  n_group_ = std::min(n_group_, static_cast<size_t>(scored_tokens(options_.n_ctx)));
  reference_logits_.resize(n_group_ * n_vocab_);
  reference_scores_.resize(n_group_);
  return {};
}

base::Error Run::at_fault(size_t pair, base::Error failure) const {
  failure.where = fmt::format("{}, chunk {}", out_.pairs[pair].pair.name(), out_.n_chunks_done + 1);
  if (pair > 0) {  // the reference has just computed the same tokens from the same weights
    failure.next =
        "the cache types do not suit this model's keys or values: leave this pair out, and please report it";
  }
  return failure;
}

base::Result<void> Run::score(const ScoredRow& row) {
  auto score = score_token(row.logits, row.token);
  if (!score) {
    return at_fault(row.context, score.failure());
  }
  const std::span<float> kept = std::span(reference_logits_).subspan(row.row * n_vocab_, n_vocab_);
  if (row.context == 0) {
    std::ranges::copy(row.logits, kept.begin());
    reference_scores_[row.row] = *score;
  }
  const TokenScore& reference = reference_scores_[row.row];
  const double kld =
      row.context == 0 ? 0 : kl_divergence(kept, reference.log_sum, row.logits, score->log_sum);
  if (!std::isfinite(kld)) {
    return at_fault(row.context,
                    base::error("", fmt::format("the KL divergence before token {} is {}", row.token, kld)));
  }
  TokenLosses& losses = out_.pairs[row.context].losses;
  losses.nll.push_back(score->nll);
  losses.kld.push_back(kld);
  losses.same_top += score->top == reference.top ? 1 : 0;
  return {};
}

base::Result<void> Run::time_decode(size_t pair, std::span<const int> held) {
  const auto n = static_cast<size_t>(std::min<int>(options_.n_decode, options_.n_ctx / 4));
  const size_t warmup = std::min<size_t>(kDecodeWarmup, n);
  Context& context = *contexts_[pair];
  for (int repeat = 0; repeat < options_.n_decode_repeats && n > 0; ++repeat) {
    context.truncate(0, static_cast<int>(held.size() - n - warmup));
    for (size_t i = held.size() - n - warmup; i < held.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      if (auto decoded = context.eval(0, held.subspan(i, 1)); !decoded) {
        return at_fault(pair, decoded.failure());
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (i >= held.size() - n) {
        out_.pairs[pair].decode_s.push_back(took.count());
      }
    }
  }
  return {};
}

base::Result<void> Run::go(std::span<const int> tokens, const OnChunk& on_chunk) {
  const WindowOptions windows{.n_ctx = options_.n_ctx, .n_windows = options_.n_chunks, .bos = out_.bos};
  out_.n_chunks = count_windows(tokens.size(), windows);
  std::vector<Context*> contexts;
  for (const auto& context : contexts_) {
    contexts.push_back(context.get());
  }
  if (out_.n_chunks > 0) {
    if (auto fine = on_chunk(out_); !fine) {
      return fine;
    }
  }
  WindowVisitor visitor;
  visitor.n_group = n_group_;
  visitor.on_row = [&](const ScoredRow& row) { return score(row); };
  visitor.on_window = [&](size_t window, std::span<const int> held) -> base::Result<void> {
    // Each chunk begins with another pair: what the machine does over time falls on all of them.
    for (size_t i = 0; i < contexts_.size(); ++i) {
      if (auto timed = time_decode((window + i) % contexts_.size(), held); !timed) {
        return timed;
      }
    }
    out_.n_chunks_done = window + 1;
    out_.n_tokens = out_.pairs.front().losses.nll.size();
    return on_chunk(out_);
  };
  return visit_windows(contexts, tokens, windows, visitor);
}

}  // namespace

base::Result<Evaluation> evaluate(const std::shared_ptr<const Model>& model, std::span<const int> tokens,
                                  int bos, const EvaluationOptions& options, const OnChunk& on_chunk) {
  AR_CHECK(!options.pairs.empty() && options.n_ctx >= 4, "nothing to evaluate");
  Evaluation out;
  out.bos = bos;
  Run run(options, out);
  if (auto opened = run.open(model); !opened) {
    return opened.failure();
  }
  if (auto done = run.go(tokens, on_chunk); !done) {
    return done.failure();
  }
  return out;
}

}  // namespace engine
