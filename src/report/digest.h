#pragma once
// A journal boiled down to what a report says: rows, the default, the best, the verdict.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/json.h"

namespace report {

struct Row {
  int trial_id = 0, attempt = 1;
  std::string phase, status, reason, params_hash, rationale;
  base::Json params, metrics;
  base::Json quality_items;  // {id: passed}
  base::Json hw, memory;     // as in the record
  std::string curve_anomaly;
  base::Json perplexity;  // as in the record
  double drift = 1;       // speeds were divided by this before they were judged
  double noise = 0;       // relative, of the last objective entry; 0 = unknown
  int disturbed = 0;      // speed samples during which pages had to be read
  bool cited = false;     // quality and needle are another trial's
  std::string change;     // what differs from the default: "cache_type_k=q8_0 n_batch=512", "default"
  std::vector<double> objective;
  std::vector<std::string> violations;
  std::vector<std::string> argv, env;  // env: "NAME=VALUE"
  bool ok = false, feasible = false;
  double rss_bytes = 0, t_total_s = 0, t_load_s = 0, t_measure_s = 0;

  bool cold = true;  // a fresh process, not a running one changed in place

  std::optional<double> metric(std::string_view name) const;  // as measured in this trial
  // The same with drift taken out.
  std::optional<double> steady(std::string_view name) const;
  // Of this configuration: the median over all its trials (anchors, finals and confirmation too), drift taken out. What
  // tables and findings compare, so that their figures agree; of a row among Digest::trials.
  std::optional<double> typical(const std::string& name) const;
  std::map<std::string, double> medians;
  int launches = 1, changes = 0;  // that ran: fresh processes, and changes in place
};

struct AxisInfo {
  std::string name;
  std::vector<base::Json> values;
  base::Json default_value;
};

// What the exchanges with a plugin came to.
struct PluginUse {
  std::string name, last_fault;  // last_fault: of the last exchange that came to nothing
  // Trials that it proposed: launched; never launched, since they were bound to run out of memory.
  int exchanges = 0, fruitless = 0, trials = 0, skipped = 0;
  int open = 0;  // begun, and no end of them recorded: their tokens and dollars are those that were set aside
  double seconds = 0, tokens = 0, usd = 0;
};

struct Digest {
  base::Json header;
  std::vector<AxisInfo> axes;
  std::vector<Row> trials;         // ended ones, in order; what follows apart
  std::vector<Row> anchors;        // the default again, to see noise and drift
  std::vector<Row> repeats;        // what ran, again: search.repeats
  std::vector<Row> finals;         // the best few again, before confirmation
  std::vector<Row> confirmations;  // ended confirmation launches
  std::vector<Row> skipped;        // never launched: predicted to run out of memory
  int interrupted = 0;             // starts whose configuration never reached an end
  // Into trials. Once the study has ended, the best is what its study_end names, or none; but the default where
  // fresh launches did not show that to be better: `rejected` is then what had looked it. While it runs, the best
  // feasible trial.
  std::optional<size_t> default_row, best_row, rejected_row;
  base::Json end;  // the last study_end; null while the study runs, or goes on after one
  double total_s = 0;
  PluginUse plugin;

  const Row* baseline() const { return default_row ? &trials[*default_row] : nullptr; }
  std::string verdict() const { return base::json_get<std::string>(end, "verdict", ""); }
  const Row* best() const { return best_row ? &trials[*best_row] : nullptr; }
};

Digest digest(const base::Json& header, std::span<const base::Json> records);

// object[key], null when there is no such thing: journals may come from another version.
const base::Json& part(const base::Json& object, std::string_view key);
// A JSON scalar as a person writes it: f16, 4096, true.
std::string plain(const base::Json& value);

}  // namespace report
