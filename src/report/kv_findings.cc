// Findings on the types of the KV cache: which are free, which pairs are broken, what fits with each.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "src/base/kv_types.h"
#include "src/base/stats.h"
#include "src/report/findings.h"
#include "src/report/sections.h"

namespace report {
namespace {

constexpr const char* kKey = "cache_type_k";
constexpr const char* kValue = "cache_type_v";
constexpr double kFreeLoss = 0.03;    // of decode: what nobody would notice
constexpr double kUnclearLoss = 0.1;  // noise or not: nothing to promise anybody
constexpr double kSlow = 0.6;  // of what other pairs reach: no price of a format, a path that is missing

using Pair = std::pair<std::string, std::string>;  // types of keys and values

std::string axis_or_default(const Digest& digest, const Row& row, const char* name) {
  if (const base::Json& value = part(row.params, name); !value.is_null()) {
    return plain(value);
  }
  for (const AxisInfo& axis : digest.axes) {
    if (axis.name == name) {
      return plain(axis.default_value);
    }
  }
  return "";
}

Pair pair_of(const Digest& digest, const Row& row) {
  return {axis_or_default(digest, row, kKey), axis_or_default(digest, row, kValue)};
}

bool is_cache_type(const std::string& axis) {
  return axis == kKey || axis == kValue;
}

// Same values in every axis but the cache types, and the context size where `any_context`.
bool same_others(const Digest& digest, const Row& a, const Row& b, bool any_context) {
  for (const AxisInfo& axis : digest.axes) {
    bool free = is_cache_type(axis.name) || (any_context && axis.name == "ctx_size");
    if (!free && part(a.params, axis.name) != part(b.params, axis.name)) {
      return false;
    }
  }
  return true;
}

// What one axis did by itself: decode with this value, all others at their default, over the default's.
std::optional<double> single_ratio(const Digest& digest, const Row& baseline, const AxisInfo& axis,
                                   const base::Json& value) {
  for (const Row& row : digest.trials) {
    bool alone = part(row.params, axis.name) == value && row.typical("decode_tps").has_value();
    for (const AxisInfo& other : digest.axes) {
      alone = alone &&
              (other.name == axis.name || part(row.params, other.name) == part(baseline.params, other.name));
    }
    if (alone) {
      return *row.typical("decode_tps") / *baseline.typical("decode_tps");
    }
  }
  return std::nullopt;
}

std::string name_of(const Pair& pair) {
  if (pair.first.empty() || pair.second.empty()) {  // only one of the two is an axis
    return pair.first.empty() ? pair.second + " values" : pair.first + " keys";
  }
  return pair.first == pair.second ? pair.first + " keys and values"
                                   : fmt::format("{} keys with {} values", pair.first, pair.second);
}

// What all rows of one pair say together.
struct PairSummary {
  std::vector<double> ratios;         // of decode to what its other axes let expect
  std::vector<double> against_pairs;  // of decode to rows of other pairs with the same other axes
  double decode = 0, peer_decode = 0;
  double noise = 0;  // relative, the largest known
  int items = 0, kept = 0;
  bool quality_known = false;
  std::optional<double> recall;  // the least
  double recall_lost = 0;
  double kv_ratio = 0;  // of KV memory to the default's, measured
  std::set<int> trials;
};

// Items that the reference passed, and how many of them this row passed too.
void compare_quality(const Row& row, const Row& reference, PairSummary& summary) {
  if (!row.quality_items.is_object() || !reference.quality_items.is_object() || row.quality_items.empty()) {
    return;
  }
  int items = 0, kept = 0;
  for (const auto& [id, passed] : reference.quality_items.items()) {
    if (passed == true) {
      ++items;
      kept += part(row.quality_items, id) == true ? 1 : 0;
    }
  }
  bool worse = !summary.quality_known || kept - items < summary.kept - summary.items;
  if (items > 0 && worse) {
    summary.quality_known = true;
    summary.items = items;
    summary.kept = kept;
  }
}

double noise_of(const Row& row) {
  double decode = row.metric("decode_tps").value_or(0), mad = row.metric("decode_tps_mad").value_or(0);
  double within = decode > 0 ? mad / decode : 0;
  return std::max(row.noise, within);
}

PairSummary summarize(const Digest& digest, const Pair& pair) {
  PairSummary summary;
  const Row& baseline = *digest.baseline();
  Pair usual = pair_of(digest, baseline);
  for (const Row& row : digest.trials) {
    if (pair_of(digest, row) != pair) {
      continue;
    }
    summary.trials.insert(row.trial_id);
    const Row* reference = &baseline;
    for (const Row& other : digest.trials) {
      if (pair_of(digest, other) == usual && same_others(digest, row, other, false)) {
        reference = &other;
        break;
      }
    }
    compare_quality(row, reference->quality_items.is_object() ? *reference : baseline, summary);
    auto recall = row.metric("needle_recall"), usual_recall = baseline.metric("needle_recall");
    if (recall) {
      summary.recall = std::min(*recall, summary.recall.value_or(1));
      summary.recall_lost = std::max(summary.recall_lost, usual_recall.value_or(1) - *recall);
    }
    auto kv = row.metric("kv_mib"), usual_kv = reference->metric("kv_mib");
    if (kv && usual_kv && *usual_kv > 0 &&
        part(row.params, "ctx_size") == part(reference->params, "ctx_size")) {
      summary.kv_ratio = *kv / *usual_kv;
    }
    auto decode = row.typical("decode_tps");
    if (!decode) {
      continue;
    }
    summary.noise = std::max({summary.noise, noise_of(row), noise_of(baseline)});
    if (auto expected = expected_decode(digest, row)) {
      summary.ratios.push_back(*decode / *expected);
    }
    std::vector<double> peers;
    for (bool any_context : {false, true}) {
      for (const Row& other : digest.trials) {
        auto speed = other.typical("decode_tps");
        if (peers.size() < 64 && speed && pair_of(digest, other) != pair &&
            same_others(digest, row, other, any_context)) {
          peers.push_back(*speed);
        }
      }
      if (!peers.empty()) {
        break;
      }
    }
    double peer = !peers.empty() ? base::median(peers) : expected_decode(digest, row).value_or(NAN);
    if (std::isfinite(peer) && peer > 0) {
      summary.against_pairs.push_back(*decode / peer);
      summary.decode = *decode;
      summary.peer_decode = peer;
    }
  }
  return summary;
}

std::string trials_text(const std::set<int>& trials) {
  std::string out = trials.size() == 1 ? "trial " : "trials ";
  size_t shown = 0;
  for (int id : trials) {
    if (++shown > 4) {
      return out + ", ...";
    }
    out += (shown == 1 ? "" : ", ") + std::to_string(id);
  }
  return out;
}

// What the verdict's own launches say of a pair's speed, where they confirmed a configuration that has it.
struct Vouched {
  std::string goal;  // "" = nothing
  double ratio = 1;
};

Vouched vouched_for(const Digest& digest, const Pair& pair) {
  const base::Json& confirmation = part(digest.end, "confirmation");
  const base::Json& goals = part(part(digest.header, "objective"), "maximize");
  const Row* best = digest.best();
  if (digest.verdict() != "confirmed" || best == nullptr || pair_of(digest, *best) != pair ||
      !base::json_get<std::string>(confirmation, "decided_by", "").empty() || !goals.is_array() ||
      goals.empty()) {
    return {};
  }
  const std::string goal = plain(goals.back());
  const double ratio = base::json_get<double>(confirmation, "ratio", 1);
  return goal.starts_with("decode_tps") && ratio > 1 ? Vouched{goal, ratio} : Vouched{};
}

void judge_pair(const Pair& pair, const Pair& usual, const PairSummary& summary, const Vouched& vouched,
                std::vector<Finding>& out) {
  double ratio = base::median(summary.ratios);
  double slow = base::median(summary.against_pairs);
  // One noisy launch is no anomaly.
  if (std::isfinite(slow) && slow <= std::min(kSlow, 1 - 4 * summary.noise)) {
    bool mixed = pair.first != pair.second && !pair.first.empty() && !pair.second.empty();
    out.push_back(
        {Finding::Kind::kAnomaly,
         fmt::format("{} decode at {:.2f} of what other pairs do ({} against {} tok/s, {}): a {} off the "
                     "fast path?",
                     mixed ? "mixed pair: " + name_of(pair) : name_of(pair), slow, rate(summary.decode),
                     rate(summary.peer_decode), trials_text(summary.trials), mixed ? "pair" : "type")});
    return;
  }
  const auto bits_of = [](const Pair& of) {
    return base::kv_bits_per_value(of.first) + base::kv_bits_per_value(of.second);
  };
  double bits = bits_of(pair), usual_bits = bits_of(usual);
  double memory = summary.kv_ratio > 0         ? summary.kv_ratio
                  : bits > 0 && usual_bits > 0 ? bits / usual_bits
                                               : 0;
  if (!(memory > 0 && memory < 0.99) || !std::isfinite(ratio) || !summary.quality_known) {
    return;
  }
  bool within = std::abs(ratio - 1) <= std::max(0.01, 2 * summary.noise);
  bool clear = ratio >= 1 - kUnclearLoss;
  bool same_speed = ratio >= 1 - kFreeLoss || (within && clear);
  std::string quality =
      summary.kept == summary.items
          ? fmt::format("quality unchanged ({} of {} items)", summary.kept, summary.items)
          : fmt::format("{} of the {} items {}/{} answers are lost", summary.items - summary.kept,
                        summary.items, usual.first, usual.second);
  std::string recall = !summary.recall ? ""
                       : summary.recall_lost > 1e-9
                           ? fmt::format(", needle recall falls to {}", percent(summary.recall))
                           : fmt::format(", needle recall {}", percent(summary.recall));
  const bool nothing_lost = summary.kept == summary.items && summary.recall_lost <= 1e-9;
  const bool free = same_speed && nothing_lost;
  const bool contradicted = !same_speed && !vouched.goal.empty();
  const bool same_metric = vouched.goal == "decode_tps";
  std::string text = fmt::format(
      "{}{}: {}{}, decode {}{}{}, KV memory 1/{:.1f}", name_of(pair), free ? " are free" : "", quality,
      recall, ratio_text(ratio),
      !within ? ""
      : clear ? " (within noise)"
              : " (within noise: measure again on a quiet machine)",
      !contradicted
          ? ""
          : fmt::format(" over all trials that have them, but {} {} in the launches of the verdict",
                        same_metric ? "the best configuration" : vouched.goal, ratio_text(vouched.ratio)),
      1 / memory);
  const bool unclear = nothing_lost && (within || (contradicted && same_metric));
  out.push_back({free      ? Finding::Kind::kFree
                 : unclear ? Finding::Kind::kUnclear
                           : Finding::Kind::kCost,
                 text});
}

}  // namespace

std::optional<double> expected_decode(const Digest& digest, const Row& row) {
  const Row* baseline = digest.baseline();
  if (baseline == nullptr || !baseline->typical("decode_tps") || !(*baseline->typical("decode_tps") > 0)) {
    return std::nullopt;
  }
  Pair usual = pair_of(digest, *baseline);
  for (bool any_context : {false, true}) {
    std::vector<double> speeds;
    for (const Row& other : digest.trials) {
      auto speed = other.typical("decode_tps");
      if (speed && *speed > 0 && &other != &row && pair_of(digest, other) == usual &&
          same_others(digest, row, other, any_context)) {
        speeds.push_back(*speed);
      }
    }
    if (!speeds.empty()) {
      return base::median(speeds);
    }
  }
  double expected = *baseline->typical("decode_tps");
  for (const AxisInfo& axis : digest.axes) {
    const base::Json& value = part(row.params, axis.name);
    // At a short prompt the size of the context around it does not matter.
    if (is_cache_type(axis.name) || axis.name == "ctx_size" || value == part(baseline->params, axis.name)) {
      continue;
    }
    auto ratio = single_ratio(digest, *baseline, axis, value);
    if (!ratio) {
      return std::nullopt;
    }
    expected *= *ratio;
  }
  return expected;
}

std::vector<Finding> kv_findings(const Digest& digest) {
  std::vector<Finding> out;
  const Row* baseline = digest.baseline();
  if (baseline == nullptr || !baseline->ok) {
    return out;
  }
  Pair usual = pair_of(digest, *baseline);
  std::vector<Pair> pairs;
  for (const Row& row : digest.trials) {
    Pair pair = pair_of(digest, row);
    if (pair != usual && std::find(pairs.begin(), pairs.end(), pair) == pairs.end()) {
      pairs.push_back(std::move(pair));
    }
  }
  for (const Pair& pair : pairs) {
    judge_pair(pair, usual, summarize(digest, pair), vouched_for(digest, pair), out);
  }
  return out;
}

std::vector<Finding> memory_frontier(const Digest& digest) {
  struct Reach {
    int64_t fits = 0, fails = 0;
    bool predicted = false;
  };
  std::vector<std::pair<std::string, Reach>> pairs;
  bool any_failure = false;
  std::set<int64_t> sizes;
  auto take = [&](const Row& row, bool predicted) {
    const base::Json& ctx = part(row.params, "ctx_size");
    bool out_of_memory = row.status == "oom" || row.status == "host_crash" || predicted;
    // A limit of the study on memory is a frontier too: what breaks it does not count as fitting.
    bool over_limit = false;
    for (const char* metric : {"kv_mib", "min_headroom_gib", "rss_gib"}) {
      over_limit |= row.status == "pruned" && row.reason.find(metric) != std::string::npos;
    }
    bool ran = !over_limit && (row.ok || row.status == "pruned" || row.status == "quality_fail" ||
                               row.status == "implausible");
    if (!ctx.is_number_integer() || (!out_of_memory && !ran)) {
      return;
    }
    auto n = ctx.get<int64_t>();
    sizes.insert(n);
    Pair pair = pair_of(digest, row);
    std::string name =
        pair.first.empty() || pair.second.empty() ? pair.first + pair.second : pair.first + "/" + pair.second;
    auto found =
        std::find_if(pairs.begin(), pairs.end(), [&](const auto& entry) { return entry.first == name; });
    if (found == pairs.end()) {
      found = pairs.insert(pairs.end(), {name, Reach{}});
    }
    Reach& reach = found->second;
    if (ran) {
      reach.fits = std::max(reach.fits, n);
    } else if (reach.fails == 0 || n < reach.fails) {
      reach.fails = n;
      reach.predicted = predicted;
    }
    any_failure = any_failure || out_of_memory;
  };
  for (const Row& row : digest.trials) {
    take(row, false);
  }
  for (const Row& row : digest.skipped) {
    take(row, true);
  }
  std::vector<Finding> out;
  if (sizes.size() < 2) {
    return out;
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const auto& a, const auto& b) { return a.second.fits > b.second.fits; });
  for (const auto& entry : pairs) {
    const Reach& reach = entry.second;
    if (reach.fails == 0 && (any_failure || reach.fits < *sizes.rbegin())) {
      // Where nothing larger was tried there is no frontier; the largest of all is worth a line.
      if (reach.fits < *sizes.rbegin()) {
        continue;
      }
    }
    std::string text = entry.first.empty() ? "" : "KV " + entry.first + ": ";
    text += reach.fits > 0 ? fmt::format("{} tokens of context fit", reach.fits) : "no context tried fits";
    if (reach.fails > 0) {
      text += fmt::format(", {} {}", reach.fails,
                          reach.predicted ? "would not (predicted)" : "ran out of memory");
    }
    out.push_back({Finding::Kind::kMemory, text});
  }
  return out;
}

}  // namespace report
