#include "src/engine/evaluation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "src/base/json.h"
#include "src/base/stats.h"
#include "src/base/units.h"
#include "src/base/version.h"
#include "src/os/files.h"

namespace engine {
namespace {

using base::Json;

constexpr int kSchemaVersion = 1;
constexpr double kMiB = 1 << 20;
constexpr const char* kRow =
    "{:<16} {:>10} {:>10} {:>9} {:>8} {:>19} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}  {}\n";

Quality quality_of(const Evaluation& evaluation, size_t pair, const base::LossOptions& judge) {
  return compare(evaluation.pairs.front().losses, evaluation.pairs[pair].losses, judge);
}

// Tokens per second of one token at a time; NaN where none was timed.
double decode_tps(const PairEvaluation& pair) {
  return 1 / base::median(pair.decode_s);
}

std::string percent(double ratio) {
  return fmt::format("{:+.2f}%", (ratio - 1) * 100);
}

std::string verdict(const Quality& quality, bool is_reference, const base::LossOptions& judge) {
  if (is_reference) {
    return "reference";
  }
  if (!quality.change) {
    return fmt::format("UNDECIDED: needs {} tokens or more", judge.min_tokens());
  }
  switch (quality.change->verdict) {
    case base::LossVerdict::kPass:
      return "PASS";
    case base::LossVerdict::kFail:
      return "FAIL";
    case base::LossVerdict::kUndecided:
      break;
  }
  const size_t needed = quality.change->tokens_needed;
  return needed > 0 ? fmt::format("UNDECIDED: needs about {} tokens", needed)
                    : std::string("UNDECIDED: the difference is the margin");
}

// Of a pair that is not the reference; "" where there is none.
std::string policy_line(const PairEvaluation& pair) {
  std::string out;
  if (pair.kv_first_last != "off") {
    out += fmt::format("first and last layers: {}; ", pair.kv_first_last);
  }
  if (!pair.kv_center_id.empty()) {
    out += fmt::format("less the means of K and V {}; ", pair.kv_center_id);
  }
  return out.empty() ? "" : out + "all pairs but the reference\n";
}

std::string table_row(const Evaluation& evaluation, size_t at, const base::LossOptions& judge) {
  const PairEvaluation& pair = evaluation.pairs[at];
  const Quality quality = quality_of(evaluation, at, judge);
  const auto& change = quality.change;
  return fmt::format(kRow, pair.pair.name(), fmt::format("{:.3f}", pair.bits_per_value),
                     fmt::format("{:.2f}", static_cast<double>(pair.kv_bytes) / kMiB),
                     fmt::format("{:.4f}", quality.perplexity.value), change ? percent(change->ratio) : "-",
                     change ? fmt::format("[{}, {}]", percent(change->low), percent(change->high)) : "-",
                     fmt::format("{:.6f}", quality.kld_mean), fmt::format("{:.6f}", quality.kld_error),
                     fmt::format("{:.6f}", quality.kld_median), fmt::format("{:.6f}", quality.kld_p99),
                     fmt::format("{:.2f}%", quality.same_top * 100),
                     pair.decode_s.empty() ? "-" : fmt::format("{:.1f}", decode_tps(pair)),
                     verdict(quality, at == 0, judge));
}

Json pair_json(const Evaluation& evaluation, size_t at, const base::LossOptions& judge) {
  const PairEvaluation& pair = evaluation.pairs[at];
  const Quality quality = quality_of(evaluation, at, judge);
  Json json = {{"kv", pair.pair.name()},
               {"k", pair.pair.k},
               {"v", pair.pair.v},
               {"reference", at == 0},
               {"bits_per_value", pair.bits_per_value},
               {"k_bits_per_value", pair.k_bits},
               {"v_bits_per_value", pair.v_bits},
               {"k_rotated", pair.k_rotated},
               {"v_rotated", pair.v_rotated},
               {"kv_first_last", pair.kv_first_last},
               {"kv_center_id", pair.kv_center_id.empty() ? Json(nullptr) : Json(pair.kv_center_id)},
               {"kv_bytes", pair.kv_bytes},
               {"kv_exact_bytes", pair.exact_bytes},
               {"kv_mib", static_cast<double>(pair.kv_bytes) / kMiB},
               {"ppl", quality.perplexity.value},
               {"ppl_error", quality.perplexity.error},
               {"ppl_change", nullptr},
               {"ppl_change_low", nullptr},
               {"ppl_change_high", nullptr},
               {"verdict", base::to_string(base::LossVerdict::kUndecided)},
               {"tokens_needed", nullptr},
               {"kld_mean", quality.kld_mean},
               {"kld_error", quality.kld_error},
               {"kld_median", quality.kld_median},
               {"kld_p99", quality.kld_p99},
               {"kld_max", quality.kld_max},
               {"same_top", quality.same_top},
               {"decode_tps", nullptr},
               {"decode_tokens", pair.decode_s.size()}};
  if (quality.change) {
    json["ppl_change"] = quality.change->ratio - 1;
    json["ppl_change_low"] = quality.change->low - 1;
    json["ppl_change_high"] = quality.change->high - 1;
    json["verdict"] = base::to_string(quality.change->verdict);
    if (quality.change->tokens_needed > 0) {
      json["tokens_needed"] = quality.change->tokens_needed;
    }
  } else {
    json["tokens_needed"] = judge.min_tokens();
  }
  if (!pair.decode_s.empty()) {
    json["decode_tps"] = decode_tps(pair);
  }
  return json;
}

base::Error cannot_write(const std::string& path, int errno_value) {
  return base::sys_error(path, "cannot be written", errno_value, "name another file");
}

base::Result<void> write_to(const std::string& path, const std::string& text) {
  errno = 0;
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) {
    return cannot_write(path, errno);
  }
  return {};
}

}  // namespace

std::string evaluation_table(const Evaluation& evaluation, const EvaluationSubject& subject,
                             const base::LossOptions& judge) {
  std::string out = fmt::format(
      "model {} ({}), corpus {}\n{} of {} chunks of {} tokens, {} tokens scored; {}, {} threads; decode at "
      "the "
      "end of a chunk\n\n",
      subject.model_path, subject.architecture, subject.corpus_path, evaluation.n_chunks_done,
      evaluation.n_chunks, evaluation.n_ctx, evaluation.n_tokens, evaluation.backend, evaluation.n_threads);
  if (subject.synthetic) {
    out += "random weights and tokens: bits, MiB and decode speed mean something, the losses do not\n\n";
  }
  if (evaluation.kv_sink > 0 || evaluation.kv_tail > 0) {
    out += fmt::format(
        "of quantized caches the first {} tokens and the last {} are read in f16; copies counted in bits and "
        "MiB\n\n",
        evaluation.kv_sink, evaluation.kv_tail);
  }
  if (!evaluation.pairs.empty()) {
    out.insert(out.size() - 1, policy_line(evaluation.pairs.back()));
  }
  out +=
      fmt::format(kRow, "kv", "bits/value", fmt::format("MiB@{}", evaluation.n_ctx_allocated), "PPL",
                  "change", fmt::format("{:g}% interval", judge.confidence * 100), "KLD mean", "+-", "median",
                  "p99", "top-1", "decode t/s", fmt::format("verdict at {:g}%", judge.margin * 100));
  for (size_t i = 0; i < evaluation.pairs.size() && evaluation.n_chunks_done > 0; ++i) {
    out += table_row(evaluation, i, judge);
  }
  return out;
}

std::string evaluation_json(const Evaluation& evaluation, const EvaluationSubject& subject,
                            const base::LossOptions& judge) {
  Json json = {{"schema_version", kSchemaVersion},
               {"program", {{"name", "tbq-eval"}, {"version", base::version()}, {"commit", base::commit()}}},
               {"host", {{"hostname", subject.hostname}, {"cpu_model", subject.cpu_model}}},
               {"model",
                {{"path", subject.model_path},
                 {"architecture", subject.architecture},
                 {"weight_bytes", subject.model_bytes},
                 {"bytes_per_token", subject.bytes_per_token},
                 {"synthetic", subject.synthetic},
                 {"fingerprint", fmt::format("{:016x}", subject.model_fingerprint)}}},
               {"corpus",
                {{"path", subject.corpus_path},
                 {"bytes", subject.corpus_bytes},
                 {"tokens", subject.corpus_tokens},
                 {"hash", fmt::format("{:016x}", subject.corpus_hash)}}},
               {"backend", evaluation.backend},
               {"activations", evaluation.activations},
               {"n_threads", evaluation.n_threads},
               {"n_ubatch", evaluation.n_ubatch},
               {"kv_sink", evaluation.kv_sink},
               {"kv_tail", evaluation.kv_tail},
               {"n_ctx", evaluation.n_ctx},
               {"n_ctx_allocated", evaluation.n_ctx_allocated},
               {"bos", evaluation.bos >= 0 ? Json(evaluation.bos) : Json(nullptr)},
               {"chunks", evaluation.n_chunks},
               {"chunks_done", evaluation.n_chunks_done},
               {"tokens_scored", evaluation.n_tokens},
               {"margin", judge.margin},
               {"confidence", judge.confidence},
               {"block", judge.block},
               {"resamples", judge.resamples},
               {"warnings", evaluation.warnings}};
  Json pairs = Json::array();
  for (size_t i = 0; i < evaluation.pairs.size() && evaluation.n_chunks_done > 0; ++i) {
    pairs.push_back(pair_json(evaluation, i, judge));
  }
  json["pairs"] = std::move(pairs);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string progress_line(const Evaluation& evaluation, double elapsed_s) {
  std::string out = fmt::format("chunk {}/{}", evaluation.n_chunks_done, evaluation.n_chunks);
  if (evaluation.n_chunks_done == 0) {
    return out;
  }
  const double base = base::mean(evaluation.pairs.front().losses.nll);
  for (const PairEvaluation& pair : evaluation.pairs) {
    const double mean = base::mean(pair.losses.nll);
    const bool first = &pair == &evaluation.pairs.front();
    out += fmt::format("{} {} {}", first ? ":" : ",", pair.pair.name(),
                       first ? fmt::format("{:.4f}", std::exp(base)) : percent(std::exp(mean - base)));
  }
  const auto done = static_cast<double>(evaluation.n_chunks_done);
  const double left = elapsed_s / done * (static_cast<double>(evaluation.n_chunks) - done);
  return left > 0 ? out + fmt::format("; {} left", base::format_duration(left)) : out;
}

base::Result<void> write_report(const std::string& path, const std::string& text) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    return write_to(path, text);
  }
  return os::replace_file(path, text);
}

}  // namespace engine
