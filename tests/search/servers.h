#pragma once
// Functions that stand for a server, and a study run against one.

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "search/axis_facts.h"
#include "search/rng.h"
#include "search/strategy.h"

namespace servers {

using search::Config;
using search::Outcome;
using search::Proposal;
using search::Space;

using Server = std::function<Outcome(const Space&, const Config&)>;

inline std::string text_of(const Space& space, const Config& config, std::string_view axis) {
  return search::to_string(config[space.index_of(axis)]);
}

inline double number_of(const Space& space, const Config& config, std::string_view axis) {
  return static_cast<double>(std::get<int64_t>(config[space.index_of(axis)]));
}

inline Outcome measured(std::vector<double> objective, double noise = 0.01) {
  return {true, false, true, std::move(objective), noise};
}
inline Outcome out_of_memory() {
  return {false, true, false, {}, 0};
}
inline Outcome forecast() {
  return {false, true, false, {}, 0, true};
}

// A deterministic landscape for any space: the position of every value counts.
inline Outcome smooth(const Space& space, const Config& config) {
  double sum = 10;
  for (size_t i = 0; i < config.size(); ++i) {
    sum += static_cast<double>(space.axes[i].index_of(config[i]) * (i + 1));
  }
  return measured({sum});
}
inline Outcome nothing_feasible(const Space&, const Config&) {
  return {true, false, false, {1.0}, 0};
}
inline Outcome always_out_of_memory(const Space&, const Config&) {
  return out_of_memory();
}
inline Outcome always_crashes(const Space&, const Config&) {
  return {};
}

// Standard normal, a function of the seed and of what is drawn for alone.
inline double normal(uint64_t seed, const std::string& key, uint64_t launch = 0) {
  uint64_t hash = 1469598103934665603ULL;  // FNV-1a: std::hash differs between libraries
  for (unsigned char byte : key) {
    hash = (hash ^ byte) * 1099511628211ULL;
  }
  search::Rng rng(seed, hash + launch);
  double u = 1 - rng.uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * rng.uniform());
}

struct Run {
  std::vector<Proposal> proposals;  // everything asked for, forecasts included
  std::vector<Outcome> outcomes;
  int launches = 0;
};

// As the loop does it: what is doomed is told as a forecast.
inline Run run(search::Strategy& strategy, const Space& space, const Server& server, int limit = 10000) {
  Run result;
  while (auto proposal = strategy.ask()) {
    REQUIRE_LT(result.proposals.size(), limit);
    result.proposals.push_back(*proposal);
    bool doomed = !proposal->doomed.empty();
    result.outcomes.push_back(doomed ? forecast() : server(space, proposal->config));
    result.launches += doomed ? 0 : 1;
    strategy.tell(proposal->config, result.outcomes.back());
  }
  return result;
}

// What the loop would take for the best; the default where nothing is feasible.
inline const Proposal& winner(const Run& result) {
  std::vector<const Outcome*> outcomes;
  for (const Outcome& outcome : result.outcomes) {
    outcomes.push_back(&outcome);
  }
  return result.proposals[search::best_of(outcomes, search::kObjectiveTolerance).value_or(0)];
}

}  // namespace servers
