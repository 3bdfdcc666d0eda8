#include "src/engine/kv_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <complex>
#include <limits>
#include <utility>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/engine/context_plan.h"
#include "src/engine/rope.h"
#include "src/os/files.h"

namespace engine {
namespace {

// Tokens evaluated together; more take more memory for the f32 rows and hardly change the means.
constexpr int kWindow = 512;
// Of each window: the first tokens draw attention whatever they are, by keys unlike all others.
constexpr int kSkip = 4;
constexpr uint64_t kMaxFile = uint64_t{1} << 30;

// The two values of a head that RoPE turns together.
std::pair<int, int> pair_of(const HParams& hp, int i) {
  return hp.rope == RopeKind::kNorm ? std::pair(2 * i, 2 * i + 1) : std::pair(i, i + hp.n_rot / 2);
}

// The mean of e^(i * radians * position) over n positions from 0: a geometric series.
std::complex<double> mean_turn(double radians, int n) {
  const double half = std::sin(radians / 2);
  const double size = std::abs(half) < 1e-12 ? 1 : std::sin(n * radians / 2) / (n * half);
  return std::polar(1.0, (n - 1) * radians / 2) * size;
}

// Sums of rows, before RoPE where it is turned back: what keys share is the same at every position only there.
class Sums {
 public:
  Sums(const Model& model, const RopeTable& rope)
      : hp_(model.hp), rope_(rope), sums_(KvMeans::bytes(model.hp) / sizeof(float)) {}

  // The rows of one page [n x dim] of a head, the first of them at position pos0.
  void add(int layer, bool of_v, int head, const float* rows, int pos0, int n) {
    double* sum = at(layer, of_v, head);
    std::vector<float> cos_sin(static_cast<size_t>(hp_.n_rot));
    for (int t = 0; t < n; ++t) {
      const float* row = rows + static_cast<size_t>(t) * static_cast<size_t>(hp_.head_dim);
      for (int i = of_v ? 0 : hp_.n_rot; i < hp_.head_dim; ++i) {
        sum[i] += row[i];
      }
      if (of_v) {
        continue;
      }
      rope_.fill(pos0 + t, cos_sin.data());
      for (int i = 0; i < hp_.n_rot / 2; ++i) {
        const auto [a, b] = pair_of(hp_, i);
        const std::complex<double> turn(cos_sin[2 * static_cast<size_t>(i)],
                                        cos_sin[2 * static_cast<size_t>(i) + 1]);
        const auto back = std::complex<double>(row[a], row[b]) / turn;
        sum[a] += back.real();
        sum[b] += back.imag();
      }
    }
  }

  // The means over n_tokens rows.
  std::vector<float> means(int n_tokens) const {
    std::vector<float> out(sums_.size());
    std::ranges::transform(sums_, out.begin(),
                           [&](double sum) { return static_cast<float>(sum / n_tokens); });
    return out;
  }

 private:
  double* at(int layer, bool of_v, int head) {
    const size_t side = 2 * static_cast<size_t>(layer) + (of_v ? 1 : 0);
    return sums_.data() + (side * static_cast<size_t>(hp_.n_head_kv) + static_cast<size_t>(head)) *
                              static_cast<size_t>(hp_.head_dim);
  }
  const HParams& hp_;
  const RopeTable& rope_;
  std::vector<double> sums_;  // as KvMeans::values
};

// Adds the rows of the context's first sequence from kSkip on.
base::Result<void> add_rows(Context& context, int n_rows, Sums& sums) {
  const HParams& hp = context.model().hp;
  const kernels::KvFormat* f32 = kernels::find_kv_format("f32");
  AR_CHECK(f32 != nullptr && f32->page_bytes != nullptr, "no f32 cache");
  const size_t page_bytes = f32->page_bytes(hp.head_dim);
  std::vector<std::byte> page;
  std::vector<float> rows(static_cast<size_t>(kernels::kPageTokens) * static_cast<size_t>(hp.head_dim));
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    for (int first = 0; first < n_rows; first += kernels::kPageTokens) {
      if (auto read = context.read_page(0, layer, first / kernels::kPageTokens, page); !read) {
        return read;
      }
      const int slot = first == 0 ? std::min(kSkip, n_rows) : 0;
      const int n = std::min(kernels::kPageTokens, n_rows - first) - slot;
      for (int i = 0; i < 2 * hp.n_head_kv && n > 0; ++i) {  // all heads' K, then V
        f32->load_rows(page.data() + static_cast<size_t>(i) * page_bytes, hp.head_dim, slot, n, rows.data());
        sums.add(layer, i >= hp.n_head_kv, i % hp.n_head_kv, rows.data(), first + slot, n);
      }
    }
  }
  return {};
}

}  // namespace

base::Result<KvMeans> calibrate_kv_means(const std::shared_ptr<const Model>& model,
                                         std::span<const int> tokens, int bos, const ContextOptions& options,
                                         const std::function<void(size_t done, size_t of)>& progress) {
  const HParams& hp = model->hp;
  const int window = std::min(kWindow, std::max(hp.n_ctx_train, kernels::kPageTokens));
  ContextOptions with;
  with.n_ctx = window;
  with.n_ubatch = options.n_ubatch;
  with.n_batch = std::max(with.n_batch, with.n_ubatch);
  with.n_threads = options.n_threads;
  with.n_threads_batch = options.n_threads_batch;
  with.activations = options.activations;
  with.n_gpu_layers = options.n_gpu_layers;
  with.gpu = options.gpu;
  with.cache_type_k = with.cache_type_v = "f32";
  auto context = Context::open(model, with);
  if (!context) {
    return context.failure();
  }
  const RopeTable rope = make_rope_table(hp, model->rope_factors);
  Sums sums(*model, rope);
  KvMeans means{.n_layer = hp.n_layer,
                .heads = hp.n_head_kv,
                .dim = hp.head_dim,
                .n_tokens = 0,
                .model = model->fingerprint,
                .id = 0,
                .values = {}};
  const size_t of_text = static_cast<size_t>(window) - (bos >= 0 ? 1 : 0);
  const size_t n_windows = (tokens.size() + of_text - 1) / of_text;
  for (size_t i = 0; i < n_windows; ++i) {
    std::vector<int> now(bos >= 0 ? 1 : 0, bos);
    const auto text = tokens.subspan(i * of_text, std::min(of_text, tokens.size() - i * of_text));
    now.insert(now.end(), text.begin(), text.end());
    if (auto ran = (*context)->eval(0, now); !ran) {
      return ran.failure();
    }
    const int n = static_cast<int>(now.size());
    if (auto added = add_rows(**context, n, sums); !added) {
      return added.failure();
    }
    means.n_tokens += std::max(0, n - kSkip);
    (*context)->truncate(0, 0);
    if (progress) {
      progress(i + 1, n_windows);
    }
  }
  if (means.n_tokens == 0) {
    return base::error(model->path, "the calibration text has no tokens in its vocabulary",
                       "use --kv-center off");
  }
  means.values = sums.means(means.n_tokens);
  if (!std::ranges::all_of(means.values, [](float value) { return std::isfinite(value); })) {
    return base::error(model->path, "keys or values of the calibration text are no numbers",
                       "use --kv-center off");
  }
  means.seal();
  return means;
}

KvMeans turn_kv_means(KvMeans means, const Model& model, int n_positions) {
  AR_CHECK(n_positions > 0 && means.values.size() * sizeof(float) == KvMeans::bytes(model.hp),
           "means of another model");
  const RopeTable rope = make_rope_table(model.hp, model.rope_factors);
  std::vector<std::complex<double>> turns;
  for (const double radians : rope.radians) {
    turns.push_back(rope.magnitude * mean_turn(radians, n_positions));
  }
  const auto side = static_cast<size_t>(means.heads) * static_cast<size_t>(means.dim);
  for (size_t layer = 0; layer < static_cast<size_t>(means.n_layer); ++layer) {
    for (size_t head = 0; head < static_cast<size_t>(means.heads); ++head) {
      float* key = means.values.data() + 2 * layer * side + head * static_cast<size_t>(means.dim);
      for (size_t i = 0; i < turns.size(); ++i) {
        const auto [a, b] = pair_of(model.hp, static_cast<int>(i));
        const std::complex<double> turned = std::complex<double>(key[a], key[b]) * turns[i];
        key[a] = static_cast<float>(turned.real());
        key[b] = static_cast<float>(turned.imag());
      }
    }
  }
  means.seal();
  return means;
}

KvMeansSource::KvMeansSource(std::shared_ptr<const Model> model, const Tokenizer& tokenizer)
    : model_(std::move(model)),
      tokens_(tokenizer.encode(calibration_text(), false, false)),
      bos_(tokenizer.adds_bos() ? tokenizer.bos() : -1) {}

base::Result<KvMeansSource::Means> KvMeansSource::read(const std::string& path) const {
  auto bytes = os::read_file(path, kMaxFile);
  if (!bytes) {
    return bytes.failure();
  }
  auto means = parse_kv_means(*bytes, path);
  if (!means) {
    return means.failure();
  }
  if (auto fits = check_kv_means(*means, *model_, path); !fits) {
    return fits.failure();
  }
  return Means(std::make_shared<const KvMeans>(*std::move(means)));
}

base::Result<KvMeansSource::Means> KvMeansSource::measure(const ContextOptions& options) const {
  const std::string path = path_beside(*model_);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed_s = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  base::log_info("measuring the means of K and V on {} tokens, once for this model", tokens_.size());
  auto means = calibrate_kv_means(model_, tokens_, bos_, options, [&](size_t done, size_t of) {
    base::log_info("means of K and V: {} of {} windows after {}", done, of,
                   base::format_duration(elapsed_s()));
  });
  if (!means) {
    return means.failure();
  }
  if (auto written = os::replace_file(path, write_kv_means(*means)); written) {
    base::log_info("means of K and V: {}, kept in {}", means->id_text(), path);
  } else {
    base::log_warn("the means of K and V are measured anew at the next start: {}",
                   written.failure().to_string());
  }
  return Means(std::make_shared<const KvMeans>(*std::move(means)));
}

base::Result<KvMeansSource::Means> KvMeansSource::get(const ContextOptions& options) {
  if (options.kv_center == "off") {
    return Means();
  }
  Means means;
  if (options.kv_center == "on") {
    auto own = get_own(options);
    if (!own) {
      return own;
    }
    means = *std::move(own);
  } else {
    auto named = get_named(options.kv_center);
    if (!named) {
      return named;
    }
    means = *std::move(named);
  }
  const int n_ctx = options.n_ctx > 0 ? options.n_ctx : std::max(1, model_->hp.n_ctx_train);
  // As long as plan_context makes a sequence.
  const int64_t all = padded_context(n_ctx), of_one = std::max<int64_t>(1, all / std::max(1, options.n_seqs));
  const int64_t longest = options.kv_unified ? all : padded_context(of_one);
  const auto n_positions = static_cast<int>(std::min<int64_t>(longest, std::numeric_limits<int>::max()));
  return Means(std::make_shared<const KvMeans>(turn_kv_means(*means, *model_, n_positions)));
}

// A context that must be opened again (a reconfiguration that failed) must not fail for a file that has gone since, or
// is something else now.
base::Result<KvMeansSource::Means> KvMeansSource::get_named(const std::string& path) {
  auto found = read(path);
  if (found) {
    named_ = *std::move(found);
    named_path_ = path;
  } else if (named_ == nullptr || named_path_ != path) {
    return found;
  } else {
    base::log_warn("{}: the means it held before are used on", found.failure().to_string());
  }
  return named_;
}

base::Result<KvMeansSource::Means> KvMeansSource::get_own(const ContextOptions& options) {
  const std::string path = path_beside(*model_);
  if (os::file_exists(path)) {
    auto found = read(path);
    if (found) {
      own_ = *std::move(found);
    } else if (own_ != nullptr) {
      base::log_warn("{}: the means of before are used on", found.failure().to_string());
    } else {
      auto head = os::read_head(path, kKvMeansHeader);
      if (!head || !is_kv_means(*head)) {  // not ours to replace
        return found.failure();
      }
      base::log_warn("{}: measured anew instead", found.failure().to_string());
    }
  }
  if (own_ == nullptr) {
    auto measured = measure(options);
    if (!measured) {
      return measured;
    }
    own_ = *std::move(measured);
  }
  return own_;
}

}  // namespace engine
