#include "src/report/digest.h"

#include <cmath>
#include <map>
#include <set>

#include "src/base/stats.h"

namespace report {
namespace {

constexpr double kTolerance = 0.01;  // as the search: entries this close are equal, but for the last

std::vector<std::string> strings(const base::Json& record, const char* key) {
  std::vector<std::string> out;
  if (const base::Json& list = part(record, key); list.is_array()) {
    for (const base::Json& item : list) {
      out.push_back(plain(item));
    }
  }
  return out;
}

bool better(const Row& a, const Row& b) {
  size_t n = std::min(a.objective.size(), b.objective.size());
  for (size_t i = 0; i < n; ++i) {
    double scale = std::max(std::abs(a.objective[i]), std::abs(b.objective[i]));
    if (i + 1 == n || std::abs(a.objective[i] - b.objective[i]) > kTolerance * scale) {
      return a.objective[i] > b.objective[i];
    }
  }
  return false;
}

std::vector<AxisInfo> read_axes(const base::Json& header) {
  std::vector<AxisInfo> axes;
  const base::Json& list = part(header, "axes");
  if (!list.is_array()) {
    return axes;
  }
  for (const base::Json& entry : list) {
    AxisInfo axis;
    axis.name = base::json_get<std::string>(entry, "name", "");
    if (const base::Json& values = part(entry, "values"); values.is_array()) {
      axis.values.assign(values.begin(), values.end());
    }
    axis.default_value = part(entry, "default");
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::string change_from_default(const std::vector<AxisInfo>& axes, const base::Json& params) {
  std::string change;
  for (const AxisInfo& axis : axes) {
    const base::Json& value = part(params, axis.name);
    if (!value.is_null() && value != axis.default_value) {
      change += (change.empty() ? "" : " ") + axis.name + "=" + plain(value);
    }
  }
  return change.empty() ? "default" : change;
}

Row read_row(const std::vector<AxisInfo>& axes, const base::Json& end) {
  Row row;
  row.trial_id = base::json_get<int>(end, "trial_id", 0);
  row.attempt = base::json_get<int>(end, "attempt", 1);
  row.phase = base::json_get<std::string>(end, "phase", "");
  row.status = base::json_get<std::string>(end, "status", "");
  row.reason = base::json_get<std::string>(end, "reason", "");
  row.params_hash = base::json_get<std::string>(end, "params_hash", "");
  row.rationale = base::json_get<std::string>(end, "rationale", "");
  row.params = part(end, "params");
  row.quality_items = part(end, "quality_items");
  row.hw = part(end, "hw");
  row.memory = part(end, "memory");
  row.curve_anomaly = base::json_get<std::string>(part(end, "curve"), "anomaly", "");
  row.perplexity = part(end, "perplexity");
  if (row.perplexity.is_object()) {  // the losses of all tokens: of no use in a report
    row.perplexity.erase("nll");
    row.perplexity.erase("top");
  }
  row.drift = base::json_get<double>(end, "drift", 1);
  row.noise = base::json_get<double>(end, "noise", 0);
  row.disturbed = base::json_get<int>(part(end, "speed"), "disturbed", 0);
  row.cold = base::json_get<bool>(end, "cold", true);
  row.cited = base::json_get<int>(end, "cited_trial_id", 0) > 0;
  row.metrics = part(end, "metrics");
  row.change = change_from_default(axes, row.params);
  row.argv = strings(end, "argv");
  row.env = strings(end, "env");
  row.violations = strings(end, "violations");
  row.ok = row.status == "ok";
  row.feasible = row.ok && base::json_get<bool>(end, "feasible", false);
  row.t_total_s = base::json_get<double>(end, "t_total_s", 0);
  row.t_load_s = base::json_get<double>(end, "t_load_s", 0);
  row.t_measure_s = base::json_get<double>(end, "t_measure_s", 0);
  row.rss_bytes = base::json_get<double>(part(end, "memory"), "rss_peak", 0);
  if (const base::Json& objective = part(end, "objective"); objective.is_array()) {
    for (const base::Json& entry : objective) {
      row.objective.push_back(entry.is_number() ? entry.get<double>() : NAN);
    }
  }
  return row;
}

}  // namespace

const base::Json& part(const base::Json& object, std::string_view key) {
  static const base::Json kNull;
  if (!object.is_object()) {
    return kNull;
  }
  auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string plain(const base::Json& value) {
  return value.is_string() ? value.get<std::string>() : base::dump_line(value);
}

std::optional<double> Row::metric(std::string_view name) const {
  double value = base::json_get<double>(metrics, name, NAN);
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::optional<double> Row::steady(std::string_view name) const {
  auto value = metric(name);
  const bool usable = std::isfinite(drift) && drift > 0;
  if (value && usable && name == "ttft_ms") {
    *value *= drift;
  } else if (value && usable && (name.starts_with("decode_tps") || name == "prefill_tps") &&
             name != "decode_tps_samples") {
    *value /= drift;
  }
  return value;
}

std::optional<double> Row::typical(const std::string& name) const {
  auto found = medians.find(name);
  return found == medians.end() ? steady(name) : std::optional(found->second);
}

namespace {

// Whether fresh launches did not show the named best to be better than the default, whatever the search saw.
bool not_better(const Digest& digest) {
  const base::Json& confirmation = part(digest.end, "confirmation");
  const bool decided = !base::json_get<std::string>(confirmation, "decided_by", "").empty();
  return digest.verdict() == "default_stands" ||
         (digest.verdict() == "unconfirmed" && !decided &&
          base::json_get<double>(confirmation, "ratio", INFINITY) <= 1);
}

// Row::medians, launches and changes of every row among the trials.
void pool_launches(Digest& digest) {
  struct Launches {
    int cold = 0, in_place = 0;
    std::map<std::string, std::vector<double>> values;
  };
  std::map<std::string, Launches> by_config;
  for (const auto* rows :
       {&digest.trials, &digest.anchors, &digest.repeats, &digest.finals, &digest.confirmations}) {
    for (const Row& row : *rows) {
      if (!row.ok || !row.metrics.is_object()) {
        continue;
      }
      Launches& launches = by_config[row.params_hash];
      ++(row.cold ? launches.cold : launches.in_place);
      for (const auto& item : row.metrics.items()) {
        if (const auto value = row.steady(item.key())) {
          launches.values[item.key()].push_back(*value);
        }
      }
    }
  }
  for (Row& row : digest.trials) {
    auto found = by_config.find(row.params_hash);
    if (!row.ok || found == by_config.end()) {
      continue;
    }
    row.launches = found->second.cold;
    row.changes = found->second.in_place;
    for (const auto& [name, values] : found->second.values) {
      row.medians[name] = base::median(values);
    }
  }
}

void count_cost(const base::Json& record, PluginUse& use) {
  use.name = base::json_get<std::string>(record, "proposer", "");
  const base::Json& usage = part(record, "usage");
  use.tokens +=
      base::json_get<double>(usage, "input_tokens", 0) + base::json_get<double>(usage, "output_tokens", 0);
  use.usd += base::json_get<double>(usage, "cost_usd", 0);
}

void count_exchange(const base::Json& record, PluginUse& use) {
  count_cost(record, use);
  ++use.exchanges;
  use.seconds += base::json_get<double>(record, "t_s", 0);
  if (std::string fault = base::json_get<std::string>(record, "fault", ""); !fault.empty()) {
    ++use.fruitless;
    use.last_fault = std::move(fault);
  }
}

}  // namespace

Digest digest(const base::Json& header, std::span<const base::Json> records) {
  Digest out;
  out.header = header;
  out.axes = read_axes(header);
  std::set<std::string> started, ended;
  std::map<int, const base::Json*> begun;  // exchanges
  for (const base::Json& record : records) {
    std::string type = base::json_get<std::string>(record, "type", "");
    if (type == "trial_start") {
      started.insert(base::json_get<std::string>(record, "params_hash", ""));
      out.end = nullptr;  // resumed: what it ended with is no verdict on what has come since
    } else if (type == "study_end") {
      out.end = record;
    } else if (type == "plugin_start") {
      begun[base::json_get<int>(record, "exchange", 0)] = &record;
    } else if (type == "plugin") {
      begun.erase(base::json_get<int>(record, "exchange", 0));
      count_exchange(record, out.plugin);
    } else if (type == "trial_end") {
      Row row = read_row(out.axes, record);
      ended.insert(row.params_hash);
      out.total_s += row.t_total_s;
      if (row.phase == "plugin") {
        ++(row.status == "skipped_predicted" ? out.plugin.skipped : out.plugin.trials);
      }
      std::vector<Row>& group = row.status == "skipped_predicted" ? out.skipped
                                : row.phase == "confirm"          ? out.confirmations
                                : row.phase == "anchor"           ? out.anchors
                                : row.phase == "final"            ? out.finals
                                : row.phase == "repeat"           ? out.repeats
                                                                  : out.trials;
      group.push_back(std::move(row));
    }
  }
  for (const auto& [number, start] : begun) {
    count_cost(*start, out.plugin);
    ++out.plugin.open;
  }
  for (const std::string& hash : started) {
    out.interrupted += ended.contains(hash) ? 0 : 1;
  }
  pool_launches(out);
  int named_best = base::json_get<int>(out.end, "best_trial_id", 0);
  for (size_t i = 0; i < out.trials.size(); ++i) {
    const Row& row = out.trials[i];
    // A default that failed in passing is launched once more, which then is what all are compared with.
    const bool again =
        out.default_row && row.phase == "default" && row.ok && !out.trials[*out.default_row].ok;
    if (row.change == "default" && (!out.default_row || again)) {
      out.default_row = i;
    }
    if (!row.feasible) {
      continue;
    }
    bool named = named_best > 0 && row.trial_id == named_best;
    if (named || (out.end.is_null() && (!out.best_row || better(row, out.trials[*out.best_row])))) {
      out.best_row = i;
    }
  }
  if (out.default_row && out.best_row && out.best_row != out.default_row && not_better(out)) {
    out.rejected_row = out.best_row;
    out.best_row = out.default_row;
  }
  return out;
}

}  // namespace report
