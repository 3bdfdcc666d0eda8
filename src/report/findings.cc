#include "src/report/findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/base/units.h"
#include "src/report/sections.h"

namespace report {
namespace {

constexpr double kDrift = 0.03;          // from here on it is worth a sentence
constexpr double kUnsteady = 1.5;        // the default over itself: no noise of a machine left alone
constexpr double kDecodeEffect = 0.025;  // less than this is no effect of an axis
constexpr double kPrefillEffect = 0.05;  // prefill is noisier
constexpr double kHot = 90;              // degrees Celsius
constexpr double kSwapGib = 0.25;

void anomaly(std::vector<Finding>& out, std::string text) {
  out.push_back({Finding::Kind::kAnomaly, std::move(text)});
}

// "trials 3, 7 and 9", at most five of them.
std::string trials_text(const std::vector<int>& trials) {
  std::string out = trials.size() == 1 ? "trial" : "trials";
  for (size_t i = 0; i < trials.size() && i < 5; ++i) {
    out += (i == 0 ? " " : i + 1 == trials.size() ? " and " : ", ") + std::to_string(trials[i]);
  }
  return trials.size() > 5 ? fmt::format("{} and {} more", out, trials.size() - 5) : out;
}

std::vector<const Row*> all_rows(const Digest& digest) {
  std::vector<const Row*> rows;
  for (const auto* group :
       {&digest.trials, &digest.anchors, &digest.repeats, &digest.finals, &digest.confirmations}) {
    for (const Row& row : *group) {
      rows.push_back(&row);
    }
  }
  return rows;
}

void find_drift(const std::vector<const Row*>& rows, std::vector<Finding>& out) {
  const Row* worst = nullptr;
  for (const Row* row : rows) {
    bool usable = std::isfinite(row->drift) && row->drift > 0;
    if (usable && (worst == nullptr || std::abs(std::log(row->drift)) > std::abs(std::log(worst->drift)))) {
      worst = row;
    }
  }
  if (worst != nullptr && std::abs(worst->drift - 1) > kDrift) {
    anomaly(out,
            fmt::format("the machine drifted: at trial {} its speeds were {} of those at the start, by the "
                        "anchors; trials are compared after correction",
                        worst->trial_id, ratio_text(worst->drift)));
  }
}

// Drift is only what goes one way and stays; between any two launches of the default anything may have happened.
void find_unsteady(const std::vector<const Row*>& rows, std::vector<Finding>& out) {
  const Row *slowest = nullptr, *fastest = nullptr;
  const auto speed = [](const Row* row) { return row->steady("decode_tps").value_or(0); };
  for (const Row* row : rows) {
    if (row->change != "default" || !row->ok || !(speed(row) > 0)) {
      continue;
    }
    slowest = slowest == nullptr || speed(row) < speed(slowest) ? row : slowest;
    fastest = fastest == nullptr || speed(row) > speed(fastest) ? row : fastest;
  }
  if (slowest != nullptr && speed(fastest) > kUnsteady * speed(slowest)) {
    const auto measured = [](const Row* row) { return rate(row->metric("decode_tps").value_or(0)); };
    const bool drifted = slowest->drift != 1 || fastest->drift != 1;
    anomaly(out, fmt::format("the default by itself decoded at {} tok/s (trial {}) and at {} (trial {}){}: "
                             "something else used the machine, or it was held back; differences between "
                             "trials that are smaller than that may be chance",
                             measured(slowest), slowest->trial_id, measured(fastest), fastest->trial_id,
                             drifted ? ", which drift does not explain" : ""));
  }
}

void find_hardware(const std::vector<const Row*>& rows, std::vector<Finding>& out) {
  std::vector<int> throttled, disturbed, swapped;
  std::string why;
  double hottest = 0;
  int hottest_trial = 0;
  for (const Row* row : rows) {
    if (base::json_get<bool>(row->hw, "throttled", false)) {
      throttled.push_back(row->trial_id);
      const base::Json& phrases = part(row->hw, "throttling");
      if (why.empty() && phrases.is_array() && !phrases.empty()) {
        why = plain(phrases.front());
      }
    }
    for (const char* when : {"before", "after"}) {
      double temperature = base::json_get<double>(part(row->hw, when), "temperature_c", 0);
      if (temperature > hottest) {
        hottest = temperature;
        hottest_trial = row->trial_id;
      }
    }
    if (row->disturbed > 0) {
      disturbed.push_back(row->trial_id);
    }
    double swap = base::json_get<double>(row->memory, "swap_used_max", 0) -
                  base::json_get<double>(row->memory, "swap_used_before", 0);
    if (swap > kSwapGib * (1 << 30)) {
      swapped.push_back(row->trial_id);
    }
  }
  if (!throttled.empty()) {
    anomaly(out, fmt::format("the hardware was throttled during {}{}", trials_text(throttled),
                             why.empty() ? "" : ": " + why));
  }
  if (hottest >= kHot) {
    anomaly(out, fmt::format("{:.0f} degrees Celsius at trial {}: speeds late in the night may be lower",
                             hottest, hottest_trial));
  }
  if (!disturbed.empty()) {
    anomaly(out, fmt::format(
                     "pages had to be read back while {} {} timed: memory is short, or weights do not stay "
                     "in it",
                     trials_text(disturbed), disturbed.size() == 1 ? "was" : "were"));
  }
  if (!swapped.empty()) {
    anomaly(out, fmt::format("{} made the host swap", trials_text(swapped)));
  }
}

void find_predictions(const Digest& digest, std::vector<Finding>& out) {
  size_t skipped = digest.skipped.size();
  if (skipped > 0) {
    out.push_back({Finding::Kind::kMemory,
                   fmt::format("{} configuration{} not launched: predicted to run out of memory ({}: {})",
                               skipped, skipped == 1 ? " was" : "s were", digest.skipped.front().change,
                               digest.skipped.front().reason)});
  }
  for (const Row& row : digest.trials) {
    if (row.rationale.find("audit") == std::string::npos) {
      continue;
    }
    if (row.status == "oom" || row.status == "host_crash") {
      out.push_back({Finding::Kind::kMemory,
                     fmt::format("a prediction was audited: trial {} ({}) ran out of memory, as predicted",
                                 row.trial_id, row.change)});
    } else {
      anomaly(out,
              fmt::format("a prediction was wrong: trial {} ({}) was predicted to run out of memory and {}",
                          row.trial_id, row.change, row.ok ? "ran" : "ended as " + row.status));
    }
  }
}

}  // namespace

std::vector<Finding> anomalies(const Digest& digest) {
  std::vector<Finding> out;
  std::vector<const Row*> rows = all_rows(digest);
  for (const Row* row : rows) {
    if (row->status == "implausible") {
      anomaly(out, fmt::format("trial {} ({}) gave numbers that cannot be true: {}", row->trial_id,
                               row->change, row->reason));
    }
    if (!row->curve_anomaly.empty()) {
      anomaly(out, fmt::format("trial {} ({}): {}", row->trial_id, row->change, row->curve_anomaly));
    }
  }
  find_drift(rows, out);
  find_unsteady(rows, out);
  find_hardware(rows, out);
  find_predictions(digest, out);
  return out;
}

std::vector<Finding> idle_axes(const Digest& digest) {
  std::vector<Finding> out;
  const Row* baseline = digest.baseline();
  if (baseline == nullptr || !baseline->ok || !baseline->typical("decode_tps")) {
    return out;
  }
  std::string names;
  double most = 0;
  for (const AxisInfo& axis : digest.axes) {
    if (axis.name == "ctx_size" || axis.name == "cache_type_k" || axis.name == "cache_type_v") {
      continue;
    }
    int measured = 0;
    bool idle = true;
    double largest = 0;
    for (const Row& row : digest.trials) {
      bool alone = part(row.params, axis.name) != part(baseline->params, axis.name);
      for (const AxisInfo& other : digest.axes) {
        alone = alone && (other.name == axis.name ||
                          part(row.params, other.name) == part(baseline->params, other.name));
      }
      if (!alone) {
        continue;
      }
      auto decode = row.typical("decode_tps"), prefill = row.typical("prefill_tps");
      auto usual = baseline->typical("prefill_tps");
      double change = decode ? std::abs(*decode / *baseline->typical("decode_tps") - 1) : NAN;
      bool small = change <= std::max(kDecodeEffect, 2 * row.noise);
      small = small && (!prefill || !usual || std::abs(*prefill / *usual - 1) <= kPrefillEffect);
      idle = idle && row.ok && small;
      largest = std::max(largest, change);
      ++measured;
    }
    if (measured > 0 && idle) {
      names += (names.empty() ? "" : ", ") + axis.name;
      most = std::max(most, largest);
    }
  }
  if (!names.empty()) {
    out.push_back({Finding::Kind::kFree,
                   fmt::format("no effect on decode or prefill by itself (decode within {:.1f}%): {}",
                               most * 100, names)});
  }
  return out;
}

std::vector<Finding> findings(const Digest& digest) {
  std::vector<Finding> out = kv_findings(digest);
  for (auto part : {idle_axes, anomalies, memory_frontier}) {
    std::vector<Finding> more = part(digest);
    out.insert(out.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return out;
}

}  // namespace report
