#include "src/study/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "probes/curve.h"
#include "probes/needle.h"
#include "probes/prompt_losses.h"
#include "probes/quality.h"
#include "probes/speed.h"
#include "src/os/files.h"
#include "src/study/interrupt.h"
#include "src/study/perplexity_record.h"

namespace study {
namespace {

constexpr const char* kRefusedBefore = "this server gave no prompt log-probabilities before";

// Pages that had to be read back: what spoils a timing. None where the server is not ours to look into.
std::function<uint64_t()> fault_counter(const Launched& server) {
  os::GuardedChild* child = server.child.get();
  if (child == nullptr) {
    return nullptr;
  }
  // Of the candidate alone: refaults count the whole host, and a refault of its pages is a major fault too.
  return [child] { return child->memory().major_faults; };
}

// The probes of one trial against a server that is ready.
class Measurement {
 public:
  Measurement(const Study& study, const TrialRequest& request, Launched& server, const TrialContext& context,
              const std::function<void(std::string_view)>& progress, TrialRecord& record)
      : study_(study),
        request_(request),
        server_(server),
        context_(context),
        progress_(progress),
        record_(record) {}

  std::optional<Failure> run() {
    auto& values = record_.metrics.values;
    record_.metrics.config = request_.proposal.config;
    if (server_.t_load_s) {
      values["load_s"] = *server_.t_load_s;
    }
    if (auto tbq = server_.effective.find("tbq");
        tbq != server_.effective.end() && tbq->contains("kv_bytes")) {
      values["kv_mib"] = base::json_get<double>(*tbq, "kv_bytes", NAN) / (1 << 20);
    }
    // A speed alone is asked for where everything else depends on the configuration, and is known.
    bool all = !request_.speed_only && request_.proposal.phase != kConfirmPhase;
    bool text = all && record_.cited_trial_id == 0;
    const ProbeOptions& probes = study_.probes;
    bool whole = (!probes.speed || (speed("speed", probes.speed_options, record_.speed, "") && gate())) &&
                 (!probes.perplexity || !text || (perplexity() && gate())) &&
                 (!probes.quality || !text || (quality() && gate())) &&
                 (!probes.needle || !text || (needle() && gate())) &&
                 (!probes.half_context || (half_context() && gate())) &&
                 (probes.curve.depths.empty() || !all || curve());
    AR_CHECK(whole != failure_.has_value(), "a probe that failed says why");
    return failure_;
  }

 private:
  void report(std::string_view doing) const {
    if (progress_) {
      progress_(doing);
    }
  }

  bool fail(Status status, std::string reason) {
    failure_ = Failure{status, std::move(reason)};
    return false;
  }

  // Whether what was measured so far leaves the rest a meaning.
  bool gate() {
    if (!context_.gate) {
      return true;
    }
    failure_ = context_.gate(record_.metrics);
    record_.censored = failure_.has_value();
    return !failure_;
  }

  // Of the options of a timing: what the server's faults are counted by.
  probes::SpeedOptions watched(probes::SpeedOptions options) const {
    options.faults = fault_counter(server_);
    return options;
  }

  bool probe_failed(const char* probe, const base::Error& error) {
    if (interrupted()) {
      return fail(Status::kInterrupted, "stopped by the user");
    }
    if (server_.child != nullptr) {  // a server that we did not start has none
      // A closed connection is seen before the exit behind it.
      server_.child->wait(0.5);
      if (auto exit = server_.child->poll()) {
        record_.exit = exit;
        failure_ = classify_exit(*exit, server_.child->memory(), os::read_tail(record_.log_path, 16 << 10),
                                 Status::kRunCrash);
        failure_->reason = fmt::format("{} probe: {}", probe, failure_->reason);
        return false;
      }
    }
    os::HttpRequest health;
    health.url = server_.endpoint.base_url + (server_.endpoint.native ? "/health" : "/v1/models");
    if (!server_.endpoint.api_key.empty()) {
      health.headers.emplace_back("Authorization", "Bearer " + server_.endpoint.api_key);
    }
    health.connect_timeout_s = 2;
    health.timeout_s = 3;
    auto answer = os::http(health);
    return fail(classify_probe_error(os::http_fault(error), answer.ok() && answer->status == 200),
                fmt::format("{} probe: {}", probe, error.to_string()));
  }

  bool speed(const char* name, const probes::SpeedOptions& asked, base::Json& out,
             const std::string& suffix) {
    report(name);
    probes::SpeedOptions options = watched(asked);
    auto result = probes::run_speed(server_.endpoint, options);
    if (result && !result->implausible.empty()) {
      // A busy moment of the host looks like a lie of the server; a lie is there the second time too.
      report(fmt::format("{} (again: {})", name, result->implausible));
      result = probes::run_speed(server_.endpoint, options);
    }
    if (!result) {
      return probe_failed(name, result.failure());
    }
    if (!result->implausible.empty()) {
      return fail(Status::kImplausible, fmt::format("{} probe: {}", name, result->implausible));
    }
    out = probes::to_json(*result);
    auto& values = record_.metrics.values;
    if (result->too_short.empty()) {
      values["decode_tps" + suffix] = result->decode_tps;
    }
    if (suffix.empty()) {
      if (result->too_short.empty()) {
        values["decode_tps_mad"] = result->decode_tps_mad;
        values["decode_tps_samples"] = static_cast<double>(result->samples.size());
      }
      values["prefill_tps"] = result->prefill_tps;
      values["ttft_ms"] = result->ttft_ms;
    }
    return true;
  }

  bool perplexity() {
    const bool llama_server = study_.backend.kind == BackendKind::kLlamaServer;
    if (llama_server || context_.no_losses) {
      record_.perplexity = {{"unsupported", llama_server ? kLlamaServerGivesNone : kRefusedBefore}};
      return true;
    }
    report("perplexity");
    auto losses = probes::run_prompt_losses(server_.endpoint, study_.probes.prompt_losses);
    if (!losses) {
      return probe_failed("perplexity", losses.failure());
    }
    bool is_default = request_.proposal.config == study_.space.canonical(study_.space.default_config());
    const bool refused = !losses->unsupported.empty();
    losses->for_good = losses->for_good && !context_.losses_given;
    PerplexityMeasured measured =
        perplexity_record(study_.probes, *losses, is_default ? nullptr : context_.losses, is_default);
    record_.perplexity = std::move(measured.record);
    record_.metrics.values.merge(measured.values);
    if (refused && perplexity_decides(study_.objective)) {
      if (!losses->for_good || study_.space.find("binary") != nullptr) {  // the next configuration's may do
        return fail(Status::kRunCrash, "perplexity probe: " + losses->unsupported);
      }
      record_.server_lost = losses->unsupported + "; the objective or a limit needs the perplexity";
      return fail(Status::kRunCrash, record_.server_lost);
    }
    return true;
  }

  bool quality() {
    report("quality");
    const ProbeOptions& probes = study_.probes;
    auto result = probes::run_quality(server_.endpoint, probes.quality_items, probes.quality_options);
    if (!result) {
      return probe_failed("quality", result.failure());
    }
    record_.quality = probes::to_json(*result);
    record_.metrics.values["quality"] = result->score;
    for (const probes::QualityAnswer& item : result->items) {
      record_.metrics.quality_items[item.id] = item.verdict == probes::Verdict::kPass;
    }
    if (result->runaway == static_cast<int>(result->items.size())) {
      record_.censored = true;
      return fail(Status::kQualityFail,
                  "quality probe: endless thinking: no answer came to an end within its tokens and its time");
    }
    return true;
  }

  bool needle() {
    report("needle");
    auto result = probes::run_needle(server_.endpoint, study_.probes.needle_options);
    if (!result) {
      return probe_failed("needle", result.failure());
    }
    record_.needle = probes::to_json(*result);
    record_.metrics.values["needle_recall"] = result->recall;
    return true;
  }

  // In tokens; 0 = unknown.
  int64_t context_size() const {
    int64_t n_ctx = base::json_get<int64_t>(server_.effective, "n_ctx", 0);
    if (n_ctx <= 0) {
      size_t axis = study_.space.index_of("ctx_size");
      const auto& config = request_.proposal.config;
      const int64_t* asked = axis < config.size() ? std::get_if<int64_t>(&config[axis]) : nullptr;
      n_ctx = asked == nullptr ? 0 : *asked;
    }
    return n_ctx;
  }

  // Decode with half of the context filled. Without a known context size there is no half: not measured.
  bool half_context() {
    int64_t n_ctx = context_size();
    if (n_ctx <= 0) {
      return true;
    }
    probes::SpeedOptions options = study_.probes.speed_options;
    options.depth = static_cast<int>(std::min<int64_t>(n_ctx / 2, 1 << 30));
    options.keep_prompt = true;  // read in once: at 48K tokens each further reading takes minutes
    return speed("half-context speed", options, record_.speed_half_context, "_at_half_context");
  }

  bool curve() {
    report("curve");
    probes::CurveOptions options = study_.probes.curve;
    options.speed = watched(study_.probes.speed_options);
    probes::CurveInputs inputs = study_.probes.curve_inputs;
    int64_t n_ctx = context_size();
    auto kv_mib = record_.metrics.values.find("kv_mib");
    if (inputs.kv_bytes_per_token <= 0 && n_ctx > 0 && kv_mib != record_.metrics.values.end()) {
      inputs.kv_bytes_per_token = kv_mib->second * (1 << 20) / static_cast<double>(n_ctx);
    }
    auto result = probes::run_curve(server_.endpoint, options, inputs,
                                    static_cast<int>(std::min<int64_t>(n_ctx, 1 << 30)));
    if (!result) {
      return probe_failed("curve", result.failure());
    }
    if (!result->implausible.empty()) {
      return fail(Status::kImplausible, fmt::format("curve probe: {}", result->implausible));
    }
    record_.curve = probes::to_json(*result);
    if (result->fit.problem.empty()) {
      record_.metrics.values["curve_base_ms"] = result->fit.base_ms;
      record_.metrics.values["curve_ms_per_1k"] = result->fit.ms_per_1k;
    }
    return true;
  }

  const Study& study_;
  const TrialRequest& request_;
  Launched& server_;
  const TrialContext& context_;
  const std::function<void(std::string_view)>& progress_;
  TrialRecord& record_;
  std::optional<Failure> failure_;
};

}  // namespace

Status classify_probe_error(os::HttpFault fault, bool health_answers) {
  switch (fault) {
    case os::HttpFault::kNoData:
      return Status::kHang;
    case os::HttpFault::kTimedOut:
      return health_answers ? Status::kTimeout : Status::kHang;
    default:
      return Status::kRunCrash;
  }
}

std::optional<Failure> measure(const Study& study, const TrialRequest& request, Launched& server,
                               const TrialContext& context,
                               const std::function<void(std::string_view)>& progress, TrialRecord& record) {
  return Measurement(study, request, server, context, progress, record).run();
}

}  // namespace study
