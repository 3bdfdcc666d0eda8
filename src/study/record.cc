#include "src/study/record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "src/study/journal.h"

namespace study {
namespace {

base::Json optional_number(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? base::Json(*value) : base::Json(nullptr);
}

base::Json head(const char* type, const std::string& study_id, const search::Space& space,
                const TrialRequest& request) {
  base::Json confirm;
  if (request.confirm_planned > 0) {
    confirm = {{"in_place", request.confirm_in_place}, {"planned", request.confirm_planned}};
  }
  base::Json record = {
      {"type", type},
      {"schema_version", kSchemaVersion},
      {"study_id", study_id},
      {"trial_id", request.trial_id},
      {"attempt", request.attempt},
      {"parent_id", request.parent_id > 0 ? base::Json(request.parent_id) : base::Json(nullptr)},
      {"phase", request.proposal.phase},
      {"proposer", request.proposer},
      {"rationale", request.proposal.rationale},
      {"cold_required", request.cold},
      {"confirm", std::move(confirm)},
      {"params", search::to_json(space, request.proposal.config)},
      {"params_hash", request.params_hash}};
  if (!request.proposal.fallback.empty()) {
    record["fallback"] = request.proposal.fallback;
  }
  return record;
}

}  // namespace

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}Z", fmt::gmtime(std::time(nullptr)));
}

base::Json trial_start(const std::string& study_id, const search::Space& space, const TrialRequest& request,
                       const std::vector<std::string>& argv, const std::string& boot_id) {
  base::Json record = head("trial_start", study_id, space, request);
  record["argv"] = argv;
  record["boot_id"] = boot_id;
  record["started"] = utc_now();
  return record;
}

base::Json trial_end(const std::string& study_id, const search::Space& space, const TrialRequest& request,
                     const TrialRecord& record) {
  bool ok = record.status == Status::kOk;
  base::Json end = head("trial_end", study_id, space, request);
  end["argv"] = record.argv;
  if (!record.env.empty()) {
    end["env"] = record.env;
  }
  end["effective"] = record.effective;
  end["status"] = to_string(record.status);
  end["reason"] = ok ? base::Json(nullptr) : base::Json(record.reason);
  end["signal"] = record.exit && record.exit->by_signal ? base::Json(record.exit->code) : base::Json(nullptr);
  end["exit_code"] =
      record.exit && !record.exit->by_signal ? base::Json(record.exit->code) : base::Json(nullptr);
  end["log"] = record.log_path;
  if (!ok) {
    end["log_tail"] = record.log_tail;
  }
  end["ended"] = utc_now();
  end["t_load_s"] = optional_number(record.t_load_s);
  end["t_warmup_s"] = optional_number(record.t_warmup_s);
  end["t_measure_s"] = optional_number(record.t_measure_s);
  end["t_reconfigure_s"] = optional_number(record.t_reconfigure_s);
  end["t_total_s"] = record.t_total_s;
  end["cold"] = record.cold;
  end["numerics_key"] = record.numerics_key.empty() ? base::Json(nullptr) : base::Json(record.numerics_key);
  end["cited_trial_id"] = record.cited_trial_id > 0 ? base::Json(record.cited_trial_id) : base::Json(nullptr);
  end["memory"] = record.memory;
  end["hw"] = record.hw;
  end["censored"] = record.censored;
  end["drift"] = record.drift;
  end["noise"] = record.noise;
  if (!ok) {
    end["feasible"] = false;
  }
  if (!ok && !ended_early(record.status)) {
    return end;
  }
  end["speed"] = record.speed;
  end["speed_half_context"] = record.speed_half_context;
  end["quality"] = record.quality;
  end["needle"] = record.needle;
  end["curve"] = record.curve;
  end["perplexity"] = record.perplexity;
  base::Json metrics = base::Json::object();
  for (const auto& [name, value] : record.metrics.values) {
    metrics[name] = optional_number(value);
  }
  end["metrics"] = metrics;
  base::Json items = base::Json::object();
  for (const auto& [id, passed] : record.metrics.quality_items) {
    items[id] = passed;
  }
  end["quality_items"] = items;
  if (!ok) {
    return end;
  }
  base::Json objective = base::Json::array();
  for (double value : record.judgement.objective) {
    objective.push_back(optional_number(value));
  }
  end["objective"] = objective;
  end["feasible"] = record.judgement.feasible;
  end["violations"] = record.judgement.violations;
  return end;
}

base::Json host_crash_end(const base::Json& start) {
  base::Json end = start;
  end["type"] = "trial_end";
  end.erase("boot_id");
  end.erase("started");
  end["status"] = to_string(Status::kHostCrash);
  end["reason"] = "the machine went down or was rebooted while this trial ran";
  end["ended"] = utc_now();
  end["feasible"] = false;
  end["censored"] = false;
  return end;
}

bool ended_early(Status status) {
  return status == Status::kPruned || status == Status::kQualityFail;
}

std::optional<TrialMetrics> metrics_of(const search::Space& space, const base::Json& end) {
  auto status = parse_status(base::json_get<std::string>(end, "status", ""));
  if (!status || (*status != Status::kOk && !ended_early(*status))) {
    return std::nullopt;
  }
  auto config = search::from_json(space, end.value("params", base::Json::object()));
  if (!config) {
    return std::nullopt;
  }
  TrialMetrics metrics;
  metrics.config = *config;
  if (auto values = end.find("metrics"); values != end.end() && values->is_object()) {
    for (const auto& [name, value] : values->items()) {
      if (value.is_number()) {
        metrics.values[name] = value.get<double>();
      }
    }
  }
  if (auto items = end.find("quality_items"); items != end.end() && items->is_object()) {
    for (const auto& [id, passed] : items->items()) {
      metrics.quality_items[id] = passed.is_boolean() && passed.get<bool>();
    }
  }
  return metrics;
}

base::Json metrics_json(const TrialMetrics& metrics) {
  base::Json values = base::Json::object();
  for (const auto& [name, value] : metrics.values) {
    if (std::isfinite(value)) {
      values[name] = value;
    }
  }
  return values;
}

Judgement judgement_of(const base::Json& end) {
  Judgement judgement;
  judgement.feasible = base::json_get<bool>(end, "feasible", false);
  if (auto objective = end.find("objective"); objective != end.end() && objective->is_array()) {
    for (const base::Json& value : *objective) {
      if (!value.is_number()) {  // an entry that was not finite: a shorter vector would be another objective
        judgement.objective.clear();
        judgement.feasible = false;
        break;
      }
      judgement.objective.push_back(value.get<double>());
    }
  }
  if (auto violations = end.find("violations"); violations != end.end() && violations->is_array()) {
    for (const base::Json& text : *violations) {
      judgement.violations.push_back(text.is_string() ? text.get<std::string>() : text.dump());
    }
  }
  return judgement;
}

namespace {

// Both as written, but for a conversion or two.
bool same_number(double a, double b) {
  return std::fabs(a - b) <= 1e-6 * std::max(std::fabs(a), std::fabs(b));
}

struct Measured {
  const char *metric, *probe, *field;
};
constexpr Measured kMeasured[] = {{"decode_tps", "speed", "decode_tps"},
                                  {"prefill_tps", "speed", "prefill_tps"},
                                  {"ttft_ms", "speed", "ttft_ms"},
                                  {"decode_tps_at_half_context", "speed_half_context", "decode_tps"}};

}  // namespace

std::string contradiction(const Study& study, const base::Json& end) {
  auto metrics = metrics_of(study.space, end);
  if (!metrics) {
    return "";
  }
  for (const Measured& row : kMeasured) {
    auto value = metrics->values.find(row.metric);
    auto probe = end.find(row.probe);
    const double measured = probe != end.end() ? base::json_get<double>(*probe, row.field, NAN) : NAN;
    if (value != metrics->values.end() && std::isfinite(measured) && !same_number(value->second, measured)) {
      return fmt::format("its metrics have {} {:.6g}, its {} probe measured {:.6g}", row.metric,
                         value->second, row.probe, measured);
    }
  }
  const double drift = base::json_get<double>(end, "drift", 1);
  const std::vector<double> recorded = judgement_of(end).objective;
  if (!std::isfinite(drift) || drift <= 0 || recorded.size() != study.objective.maximize.size()) {
    return "";
  }
  const TrialMetrics level = slowed(*metrics, drift);
  for (size_t i = 0; i < recorded.size(); ++i) {
    const search::Expression& entry = study.objective.maximize[i];
    // Without what other trials measured (the default's, or this configuration's at its first launch): not told.
    const auto value = entry_value(study, entry, level, nullptr);
    if (value && !same_number(*value, recorded[i])) {
      return fmt::format("its objective has {} {:.6g}, its metrics come to {:.6g}", entry.text(), recorded[i],
                         *value);
    }
  }
  return "";
}

search::Outcome outcome_of_end(const Study& study, const base::Json& end) {
  auto status = parse_status(base::json_get<std::string>(end, "status", ""));
  search::Outcome outcome;
  if (auto metrics = metrics_of(study.space, end)) {
    outcome = outcome_of(study, judgement_of(end), *metrics);
    outcome.noise = base::json_get<double>(end, "noise", 0);
    return outcome;
  }
  outcome.out_of_memory = status && means_out_of_memory(*status);
  outcome.predicted = status && *status == Status::kSkippedPredicted;
  return outcome;
}

base::Json to_json(const os::MemoryTrace& trace, uint64_t available_after) {
  return {{"total", trace.total},
          {"available_before", trace.available_before},
          {"available_min", trace.available_min},
          {"available_after", available_after},
          {"headroom_before", trace.headroom_before},
          {"headroom_min", trace.headroom_min},
          {"swap_used_before", trace.swap_used_before},
          {"swap_used_max", trace.swap_used_max},
          {"swap_in", trace.swap_in},
          {"swap_out", trace.swap_out},
          {"rss_peak", trace.rss_peak},
          {"rss_file_peak", trace.rss_file_peak},
          {"psi_full_avg10_max", trace.psi_full_avg10_max},
          {"psi_full_s", trace.psi_full_s},
          {"refaults", trace.refaults},
          {"refaults_anon", trace.refaults_anon},
          {"major_faults", trace.major_faults},
          {"samples", trace.samples},
          {"sample_us", trace.sample_us}};
}

}  // namespace study
