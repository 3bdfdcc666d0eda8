#include "src/report/digest.h"

#include <cmath>
#include <set>

namespace report {
namespace {

constexpr double kTolerance = 0.01;  // as the search: entries this close are equal, but for the last

std::vector<std::string> strings(const base::Json& record, const char* key) {
  std::vector<std::string> out;
  auto found = record.find(key);
  if (found != record.end() && found->is_array()) {
    for (const base::Json& item : *found) {
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
  auto found = header.find("axes");
  if (found == header.end() || !found->is_array()) {
    return axes;
  }
  for (const base::Json& entry : *found) {
    AxisInfo axis;
    axis.name = base::json_get<std::string>(entry, "name", "");
    if (entry.is_object() && entry.contains("values") && entry["values"].is_array()) {
      axis.values.assign(entry["values"].begin(), entry["values"].end());
    }
    axis.default_value = entry.is_object() && entry.contains("default") ? entry["default"] : base::Json();
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::string change_from_default(const std::vector<AxisInfo>& axes, const base::Json& params) {
  std::string change;
  for (const AxisInfo& axis : axes) {
    if (params.is_object() && params.contains(axis.name) && params[axis.name] != axis.default_value) {
      change += (change.empty() ? "" : " ") + axis.name + "=" + plain(params[axis.name]);
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
  row.params = end.value("params", base::Json::object());
  row.metrics = end.value("metrics", base::Json::object());
  row.change = change_from_default(axes, row.params);
  row.argv = strings(end, "argv");
  row.violations = strings(end, "violations");
  row.ok = row.status == "ok";
  row.feasible = row.ok && base::json_get<bool>(end, "feasible", false);
  row.t_total_s = base::json_get<double>(end, "t_total_s", 0);
  row.t_load_s = base::json_get<double>(end, "t_load_s", 0);
  row.t_measure_s = base::json_get<double>(end, "t_measure_s", 0);
  if (auto memory = end.find("memory"); memory != end.end()) {
    row.rss_bytes = base::json_get<double>(*memory, "rss_peak", 0);
  }
  if (auto objective = end.find("objective"); objective != end.end() && objective->is_array()) {
    for (const base::Json& entry : *objective) {
      row.objective.push_back(entry.is_number() ? entry.get<double>() : NAN);
    }
  }
  return row;
}

}  // namespace

std::string plain(const base::Json& value) {
  return value.is_string() ? value.get<std::string>() : base::dump_line(value);
}

std::optional<double> Row::metric(std::string_view name) const {
  double value = base::json_get<double>(metrics, name, NAN);
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

Digest digest(const base::Json& header, std::span<const base::Json> records) {
  Digest out;
  out.header = header;
  out.axes = read_axes(header);
  std::set<std::string> started, ended;
  for (const base::Json& record : records) {
    std::string type = base::json_get<std::string>(record, "type", "");
    if (type == "trial_start") {
      started.insert(base::json_get<std::string>(record, "params_hash", ""));
    } else if (type == "study_end") {
      out.end = record;
    } else if (type == "trial_end") {
      Row row = read_row(out.axes, record);
      ended.insert(row.params_hash);
      out.total_s += row.t_total_s;
      (row.phase == "confirm" ? out.confirmations : out.trials).push_back(std::move(row));
    }
  }
  for (const std::string& hash : started) {
    out.interrupted += ended.contains(hash) ? 0 : 1;
  }
  int named_best = base::json_get<int>(out.end, "best_trial_id", 0);
  for (size_t i = 0; i < out.trials.size(); ++i) {
    const Row& row = out.trials[i];
    if (row.change == "default" && !out.default_row) {
      out.default_row = i;
    }
    if (!row.feasible) {
      continue;
    }
    bool named = named_best > 0 && row.trial_id == named_best;
    if (named || (named_best == 0 && (!out.best_row || better(row, out.trials[*out.best_row])))) {
      out.best_row = i;
    }
  }
  return out;
}

}  // namespace report
