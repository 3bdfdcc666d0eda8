#pragma once
// Search strategies: ask/tell, pure and deterministic for a seed. No clock, file, log, thread or network.
// Resume is replaying the journal through ask and tell.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "search/space.h"

namespace search {

struct Proposal {
  Config config;
  // "default", "sweep", "perturb", "model", "random", "grid", "plugin"; the loop's own: "anchor", "final", "confirm".
  std::string phase;
  std::string rationale;  // one line for the journal and the person reading it
  // Why it must run out of memory, judging by smaller ones that did; "" otherwise. Such a point is recorded as
  // skipped_predicted and told as Outcome{predicted}, not launched.
  std::string doomed = {};
  // Why the plugin, whose turn it was, does not propose it; "" where it was nobody else's turn.
  std::string fallback = {};
};

// What a trial came to, as far as the search may see it.
struct Outcome {
  bool ok = false;                // it ran and was measured
  bool out_of_memory = false;     // failed, or broke a limit on memory: larger will too
  bool feasible = false;          // ok, and every limit of the objective holds
  std::vector<double> objective;  // to maximise, lexicographic; empty unless ok
  // Relative standard error of the last objective entry, launch to launch included; 0 where it is not known.
  double noise = 0;
  bool predicted = false;  // with out_of_memory: never launched, a forecast
};

struct Limits {
  int max_trials = 60;  // distinct configurations, the default included; the driver also stops it by time
  // How many the time will probably allow, so that the plan fits the night; 0 = max_trials. A resumed study
  // must give the same number.
  int expected_trials = 0;
  // Axes that a running server changes without loading again: trials that differ in these alone come together.
  // A resumed study must give the same.
  std::vector<std::string> in_place = {};
  bool pareto = false;  // the entries of the objective are of equal rank: a front is wanted
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  // The next configuration: canonical, no constraint violated, never one already told. One that an
  // out-of-memory trial dooms comes only with Proposal::doomed (once: to be told as predicted), or as an audit
  // of such a forecast ("audit" in the rationale), or when what doomed it was shown to be bad luck. nullopt when
  // the strategy has finished.
  // Asking again without a tell repeats the proposal.
  virtual std::optional<Proposal> ask() = 0;
  // Configurations need not come from ask (a resumed journal, a plugin): all are learnt from.
  virtual void tell(const Config& config, const Outcome& outcome) = 0;
  // What an earlier study launched. Learnt from as well, but nothing that this search has tried: it uses up no
  // patience and is no audit, and the first launch of the same configuration told here takes its place.
  virtual void know(const Config& config, const Outcome& outcome) = 0;
  virtual bool done() const = 0;
};

// True when a is better than b: feasible before measured before failed; among feasible ones lexicographic,
// where entries within `tolerance` (relative) count as equal except the last.
inline constexpr double kObjectiveTolerance = 0.01;
// Of two; over many it is no order (three may each be within tolerance of the next only): use best_of there.
bool better(const Outcome& a, const Outcome& b, double tolerance);
// Index of the best feasible outcome, nullopt when there is none. Entry by entry those stay that are within
// `tolerance` of the best of that entry among all that stayed so far; by the last entry the highest wins, the
// first of equals. The order does not matter, so an earlier entry cannot be given away step by step.
std::optional<size_t> best_of(std::span<const Outcome* const> outcomes, double tolerance);

struct StrategyInfo {
  std::string_view name, summary;
  std::unique_ptr<Strategy> (*make)(const Space& space, uint64_t seed, const Limits& limits);
};
// two-phase, model-based, tpe, random, grid.
std::span<const StrategyInfo> strategies();
const StrategyInfo* find_strategy(std::string_view name);

}  // namespace search
