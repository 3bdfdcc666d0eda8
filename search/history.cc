#include "search/history.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace search {
namespace {

// Forecasts per trial allowed; more, and the space is used up as good as.
constexpr int kForecastsPerTrial = 10;

}  // namespace

Outcome pooled(const std::vector<Outcome>& outcomes) {
  AR_CHECK(!outcomes.empty(), "nothing to pool");
  std::vector<const Outcome*> measured;
  int feasible = 0;
  bool all_known = true;
  for (const Outcome& outcome : outcomes) {
    if (outcome.ok) {
      measured.push_back(&outcome);
      feasible += outcome.feasible ? 1 : 0;
      all_known = all_known && outcome.noise > 0;
    }
  }
  if (measured.size() < 2) {
    return measured.empty() ? outcomes.back() : *measured.front();
  }
  Outcome result = *measured.back();
  result.feasible = 2 * feasible > static_cast<int>(measured.size());
  // Only those with an objective count; a censored trial has none.
  std::erase_if(measured, [](const Outcome* outcome) { return outcome->objective.empty(); });
  if (measured.empty()) {
    return result;
  }
  std::vector<double> sum(measured.front()->objective.size(), 0);
  double weights = 0, variance = 0;
  for (const Outcome* outcome : measured) {
    double weight = all_known ? 1 / (outcome->noise * outcome->noise) : 1;
    sum.resize(std::min(sum.size(), outcome->objective.size()));
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += weight * outcome->objective[i];
    }
    weights += weight;
    variance = std::max(variance, outcome->noise * outcome->noise);
  }
  for (double& entry : sum) {
    entry /= weights;
  }
  result.objective = sum;
  result.noise = std::sqrt(all_known ? 1 / weights : variance / static_cast<double>(measured.size()));
  return result;
}

void History::tell(const Config& told, const Outcome& outcome) {
  Config config = space_.canonical(told);
  std::string key = key_of(config);
  if (outcome.predicted) {
    forecast(config, key);
    return;
  }
  // A launch of something doomed is an audit, whoever asked for it.
  audits_ += doomed(config) ? 1 : 0;
  add(std::move(config), std::move(key), outcome, false);
}

void History::know(const Config& known, const Outcome& outcome) {
  Config config = space_.canonical(known);
  std::string key = key_of(config);
  auto at = index_.find(key);
  if (!outcome.predicted && (at == index_.end() || launches_[at->second].known)) {
    add(std::move(config), std::move(key), outcome, true);
  }
}

void History::add(Config config, std::string key, const Outcome& outcome, bool known) {
  if (outcome.out_of_memory) {
    frontier_.failed(space_, config);
  } else if (outcome.ok) {
    reprieves_ += frontier_.ran(space_, config) > 0 ? 1 : 0;
  }
  auto [at, is_new] = index_.emplace(std::move(key), entries_.size());
  if (is_new) {
    entries_.push_back({std::move(config), outcome});
    launches_.push_back({{outcome}, known});
    known_ += known ? 1 : 0;
    return;
  }
  Launches& launches = launches_[at->second];
  if (launches.known && !known) {
    launches = {};  // what it does here and now is what counts, be it better or worse
    --known_;
  }
  launches.outcomes.push_back(outcome);
  entries_[at->second].outcome = pooled(launches.outcomes);
}

void History::forecast(const Config& config, const std::string& key) {
  ++forecasts_;
  auto [at, is_new] = skip_index_.emplace(key, skips_.size());
  if (is_new) {
    skips_.push_back({config, doomed(config), false});
  } else {
    skips_[at->second].refused = true;
  }
}

const Outcome* History::find(const Config& canonical) const {
  auto at = index_.find(key_of(canonical));
  return at != index_.end() ? &entries_[at->second].outcome : nullptr;
}

bool History::ran_out_of_memory(const Config& canonical) const {
  const Outcome* outcome = find(canonical);
  return outcome != nullptr && outcome->out_of_memory;
}

bool History::open(const Config& canonical) const {
  std::string key = key_of(canonical);
  if (index_.contains(key)) {
    return false;
  }
  auto skip = skip_index_.find(key);
  if (skip != skip_index_.end()) {
    const Skip& it = skips_[skip->second];
    if (!it.by_frontier || it.refused || doomed(canonical)) {
      return false;
    }
  }
  return space_.violated(canonical).empty();
}

bool History::used_up(const Limits& limits) const {
  return launched() >= limits.max_trials || forecasts_ >= kForecastsPerTrial * std::max(limits.max_trials, 1);
}

const Config* History::due_audit() const {
  if (forecasts_ / kSkipsPerAudit <= audits_) {
    return nullptr;
  }
  const Config* nearest = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const Skip& skip : skips_) {
    double distance = skip.refused || index_.contains(key_of(skip.config))
                          ? std::numeric_limits<double>::infinity()
                          : frontier_.distance(space_, skip.config);
    if (distance < least) {
      least = distance;
      nearest = &skip.config;
    }
  }
  return nearest;
}

}  // namespace search
