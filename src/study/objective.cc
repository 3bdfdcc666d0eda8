#include "src/study/objective.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace study {

using search::Value;

namespace {

constexpr MetricInfo kMetrics[] = {
    {"decode_tps", "speed", "tokens per second while generating, median at short context"},
    {"prefill_tps", "speed", "prompt tokens per second until the first token, median"},
    {"ttft_ms", "speed", "milliseconds until the first token, median"},
    {"decode_tps_mad", "speed", "spread of decode_tps over its samples"},
    {"decode_tps_samples", "speed", "how many samples decode_tps is the median of"},
    {"decode_tps_at_half_context", "half_context", "decode_tps with half of ctx_size filled"},
    {"quality", "quality", "share of the suite's items answered", 0, 1},
    {"needle_recall", "needle", "share of the planted facts found", 0, 1},
    {"ppl", "perplexity", "perplexity of the corpus", 1, 1},
    {"ppl_change", "perplexity", "ppl over the default's, less 1, token by token: 0.02 = 2% worse", -1, -1},
    {"curve_base_ms", "curve", "milliseconds per token without any context, from the curve over depths"},
    {"curve_ms_per_1k", "curve", "milliseconds that each 1,000 tokens of context add to a token"},
    {"min_headroom_gib", "memory", "least memory left on the host, in GiB"},
    {"rss_gib", "memory", "resident memory of the server, in GiB"},
    {"kv_mib", "memory", "KV cache as the server says it is, in MiB (tbq-server)"},
    {"load_s", "load", "seconds from launch until it answered"},
    {"ctx_size", "load", "context length in tokens"},
};

constexpr std::string_view kDefaultPrefix = "default.";
constexpr size_t kItemsNamed = 5;  // in one sentence

std::optional<Value> value_in(const Study& study, const TrialMetrics& trial, std::string_view name) {
  auto measured = trial.values.find(std::string(name));
  if (measured != trial.values.end() && std::isfinite(measured->second)) {
    return Value(measured->second);
  }
  size_t axis = study.space.index_of(name);
  if (axis < trial.config.size()) {
    return trial.config[axis];
  }
  if (find_metric(name) != nullptr) {
    return Value(std::numeric_limits<double>::quiet_NaN());
  }
  return std::nullopt;
}

search::Expression::Lookup lookup_of(const Study& study, const TrialMetrics& trial,
                                     const TrialMetrics* default_trial) {
  return [&study, &trial, default_trial](std::string_view name) -> std::optional<Value> {
    if (!name.starts_with(kDefaultPrefix)) {
      return value_in(study, trial, name);
    }
    name.remove_prefix(kDefaultPrefix.size());
    return default_trial != nullptr ? value_in(study, *default_trial, name) : std::nullopt;
  };
}

// "decode_tps 18.2, default.decode_tps 24": what stood behind a limit that does not hold.
std::string numbers_in(const search::Expression& expression, const search::Expression::Lookup& lookup) {
  std::vector<std::string> parts;
  for (const std::string& name : expression.names()) {
    auto value = lookup(name);
    if (!value) {
      continue;
    }
    const double* real = std::get_if<double>(&*value);
    parts.push_back(fmt::format("{} {}", name,
                                real != nullptr ? fmt::format("{:.4g}", *real) : search::to_string(*value)));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

bool same_but_cache_types(const Study& study, const search::Config& config, const search::Config& other,
                          const std::string& type) {
  for (size_t i = 0; i < study.space.axes.size() && i < other.size(); ++i) {
    const std::string& name = study.space.axes[i].name;
    bool is_cache_type = name == "cache_type_k" || name == "cache_type_v";
    if (!search::equal(other[i], is_cache_type ? Value(type) : config[i])) {
      return false;
    }
  }
  return other.size() == config.size();
}

const TrialMetrics* find_reference(const Study& study, const TrialMetrics& trial,
                                   const TrialMetrics* default_trial, std::span<const TrialMetrics> others,
                                   const std::string& type) {
  if (same_but_cache_types(study, trial.config, trial.config, type)) {
    return &trial;
  }
  for (const TrialMetrics& other : others) {
    if (!other.quality_items.empty() && same_but_cache_types(study, trial.config, other.config, type)) {
      return &other;
    }
  }
  return default_trial;
}

// Of the items on which two configurations differ, the chance that as many or more were lost as were, if losing and
// winning one were equally likely: the exact one-sided sign test (McNemar's, without its approximation).
double sign_test(size_t lost, size_t gained) {
  size_t n = lost + gained;
  double p = 0;
  for (size_t i = lost; i <= n; ++i) {
    p += std::exp(std::lgamma(n + 1.0) - std::lgamma(i + 1.0) -
                  std::lgamma(static_cast<double>(n - i) + 1.0) - static_cast<double>(n) * std::log(2.0));
  }
  return std::min(1.0, p);
}

// "" when at most the margin of the reference's passed items is lost, whatever was gained. The margin decides, so
// that the same answers always judge the same; the sign test says how much chance there may be in it.
std::string quality_violation(const Study& study, const TrialMetrics& trial,
                              const TrialMetrics* default_trial, std::span<const TrialMetrics> others,
                              const std::string& type) {
  if (trial.quality_items.empty()) {
    return "quality was not measured";
  }
  const TrialMetrics* reference = find_reference(study, trial, default_trial, others, type);
  if (reference == nullptr || reference->quality_items.empty()) {
    return fmt::format("quality not_worse_than {}: no {} reference was measured", type, type);
  }
  int passed = 0;
  size_t gained = 0;
  std::vector<std::string> lost;
  for (const auto& [id, good] : reference->quality_items) {
    auto mine = trial.quality_items.find(id);
    passed += good ? 1 : 0;
    if (good && (mine == trial.quality_items.end() || !mine->second)) {
      lost.push_back(id);
    }
    gained += !good && mine != trial.quality_items.end() && mine->second ? 1 : 0;
  }
  if (passed == 0) {
    return fmt::format("quality not_worse_than {}: the reference answered no item itself", type);
  }
  auto allowed = static_cast<size_t>(std::floor(study.probes.quality_margin * passed + 1e-9));
  if (lost.size() <= allowed) {
    return "";
  }
  size_t count = lost.size();
  double p = sign_test(count, gained);
  if (count > kItemsNamed) {
    lost.resize(kItemsNamed);
    lost.emplace_back("...");
  }
  return fmt::format(
      "quality not_worse_than {}: {} of the {} items the reference answered are lost, {} allowed{} ({}; sign "
      "test "
      "p = {:.3f})",
      type, count, passed, allowed, gained > 0 ? fmt::format(", {} others gained", gained) : "",
      fmt::join(lost, ", "), p);
}

}  // namespace

std::span<const MetricInfo> metric_table() {
  return kMetrics;
}

const MetricInfo* find_metric(std::string_view name) {
  for (const MetricInfo& metric : kMetrics) {
    if (metric.name == name) {
      return &metric;
    }
  }
  return nullptr;
}

Judgement judge(const Study& study, const TrialMetrics& trial, const TrialMetrics* default_trial,
                std::span<const TrialMetrics> others) {
  AR_CHECK(trial.config.size() == study.space.axes.size(), "a trial of another space");
  if (search::key_of(trial.config) == search::key_of(study.space.default_config())) {
    default_trial = &trial;
  }
  auto lookup = lookup_of(study, trial, default_trial);
  Judgement judgement;
  for (const search::Expression& part : study.objective.maximize) {
    auto value = part.evaluate(lookup);
    const int64_t* whole = value ? std::get_if<int64_t>(&*value) : nullptr;
    const double* real = value ? std::get_if<double>(&*value) : nullptr;
    if (whole == nullptr && real == nullptr) {
      judgement.violations.push_back(value ? fmt::format("{} is not a number", part.text())
                                           : value.failure().what);
      continue;
    }
    double number = whole != nullptr ? static_cast<double>(*whole) : *real;
    if (!std::isfinite(number)) {
      judgement.violations.push_back(fmt::format("{} is not finite", part.text()));
      continue;
    }
    judgement.objective.push_back(number);
  }
  if (judgement.objective.size() != study.objective.maximize.size()) {
    judgement.objective.clear();
  }
  for (const search::Expression& limit : study.objective.subject_to) {
    auto value = limit.evaluate(lookup);
    const bool* holds = value ? std::get_if<bool>(&*value) : nullptr;
    if (!value) {
      judgement.violations.push_back(value.failure().what);
    } else if (holds == nullptr || !*holds) {
      judgement.violations.push_back(
          fmt::format("{} does not hold ({})", limit.text(), numbers_in(limit, lookup)));
    }
  }
  for (const std::string& type : study.objective.quality_not_worse_than) {
    std::string violation = quality_violation(study, trial, default_trial, others, type);
    if (!violation.empty()) {
      judgement.violations.push_back(std::move(violation));
    }
  }
  // One missing metric may stand in several places; once is enough.
  std::vector<std::string> unique;
  for (std::string& text : judgement.violations) {
    if (std::find(unique.begin(), unique.end(), text) == unique.end()) {
      unique.push_back(std::move(text));
    }
  }
  judgement.violations = std::move(unique);
  judgement.feasible = judgement.violations.empty();
  return judgement;
}

namespace {

// A limit on memory alone (kv_mib <= 8, min_headroom_gib >= 1) does not hold: larger would break it too.
bool breaks_memory_limit(const Study& study, const TrialMetrics& trial) {
  auto on_memory = [](const std::string& name) {
    const MetricInfo* metric = find_metric(name);
    return metric != nullptr && metric->probe == "memory";
  };
  auto lookup = lookup_of(study, trial, nullptr);
  return std::any_of(study.objective.subject_to.begin(), study.objective.subject_to.end(),
                     [&](const search::Expression& limit) {
                       auto names = limit.names();
                       auto value = limit.evaluate(lookup);
                       const bool* holds = value ? std::get_if<bool>(&*value) : nullptr;
                       return !names.empty() && std::all_of(names.begin(), names.end(), on_memory) &&
                              holds != nullptr && !*holds;
                     });
}

}  // namespace

search::Outcome outcome_of(const Study& study, const Judgement& judgement, const TrialMetrics& trial) {
  search::Outcome outcome;
  outcome.ok = true;
  outcome.out_of_memory = breaks_memory_limit(study, trial);
  outcome.feasible = judgement.feasible;
  outcome.objective = judgement.objective;
  return outcome;
}

std::optional<double> entry_value(const Study& study, const search::Expression& expression,
                                  const TrialMetrics& trial, const TrialMetrics* default_trial) {
  auto value = expression.evaluate(lookup_of(study, trial, default_trial));
  if (!value) {
    return std::nullopt;
  }
  double number = std::numeric_limits<double>::quiet_NaN();
  if (const auto* real = std::get_if<double>(&*value)) {
    number = *real;
  } else if (const auto* whole = std::get_if<int64_t>(&*value)) {
    number = static_cast<double>(*whole);
  }
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

std::optional<bool> limit_holds(const Study& study, const search::Expression& limit,
                                const TrialMetrics& trial, const TrialMetrics* default_trial) {
  auto value = limit.evaluate(lookup_of(study, trial, default_trial));
  const bool* holds = value ? std::get_if<bool>(&*value) : nullptr;
  return holds == nullptr ? std::nullopt : std::optional(*holds);
}

std::string broken_limit_text(const Study& study, const search::Expression& limit, const TrialMetrics& trial,
                              const TrialMetrics* default_trial) {
  return fmt::format("{} does not hold ({})", limit.text(),
                     numbers_in(limit, lookup_of(study, trial, default_trial)));
}

std::string broken_quality(const Study& study, const TrialMetrics& trial, const TrialMetrics* default_trial,
                           std::span<const TrialMetrics> others) {
  for (const std::string& type : study.objective.quality_not_worse_than) {
    std::string violation = quality_violation(study, trial, default_trial, others, type);
    if (!violation.empty()) {
      return violation;
    }
  }
  return "";
}

bool is_reference(const Study& study, const TrialMetrics& trial) {
  return !trial.quality_items.empty() &&
         std::any_of(study.objective.quality_not_worse_than.begin(),
                     study.objective.quality_not_worse_than.end(), [&](const std::string& type) {
                       return same_but_cache_types(study, trial.config, trial.config, type);
                     });
}

namespace {

// Larger is better or smaller is: what noise and drift act on.
constexpr std::string_view kSpeeds[] = {"decode_tps", "prefill_tps", "decode_tps_at_half_context"};
constexpr std::string_view kTimes[] = {"ttft_ms"};

bool is_timed(std::string_view name) {
  return std::find(std::begin(kSpeeds), std::end(kSpeeds), name) != std::end(kSpeeds) ||
         std::find(std::begin(kTimes), std::end(kTimes), name) != std::end(kTimes);
}

}  // namespace

TrialMetrics slowed(TrialMetrics trial, double factor) {
  for (std::string_view name : kSpeeds) {
    if (auto at = trial.values.find(std::string(name)); at != trial.values.end()) {
      at->second /= factor;
    }
  }
  if (auto spread = trial.values.find("decode_tps_mad"); spread != trial.values.end()) {
    spread->second /= factor;
  }
  for (std::string_view name : kTimes) {
    if (auto at = trial.values.find(std::string(name)); at != trial.values.end()) {
      at->second *= factor;
    }
  }
  return trial;
}

bool depends_on_speed(const search::Expression& expression) {
  auto names = expression.names();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return is_timed(name); });
}

std::optional<double> speed_level(const Study& study, const TrialMetrics& trial) {
  std::string name = "decode_tps";
  if (!study.objective.maximize.empty()) {
    const std::string& last = study.objective.maximize.back().text();
    name = std::find(std::begin(kSpeeds), std::end(kSpeeds), last) != std::end(kSpeeds) ? last : name;
  }
  auto found = trial.values.find(name);
  bool known = found != trial.values.end() && std::isfinite(found->second) && found->second > 0;
  return known ? std::optional(found->second) : std::nullopt;
}

}  // namespace study
