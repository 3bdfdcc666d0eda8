#include "search/two_phase_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <unordered_set>

#include "search/axis_facts.h"

namespace search {
namespace {

constexpr int kMaxLadder = 5;           // launches given to one axis that memory held back
constexpr double kHarmlessLoss = 0.03;  // a loss below this is a price worth paying for memory
constexpr double kDoubtfulLoss = 0.15;  // a loss below this may have missed its limit by noise
constexpr int kSiblings = 3;            // more launches like one that missed a limit by little
constexpr int kTrialsPerPair = 10;      // one pair check per so many trials
constexpr size_t kNoAxis = std::numeric_limits<size_t>::max();
constexpr size_t kNoEntry = std::numeric_limits<size_t>::max();

int planned_trials(const Limits& limits) {
  return limits.expected_trials > 0 ? std::min(limits.expected_trials, limits.max_trials) : limits.max_trials;
}

// A proposal if `config` is still open; marked where the frontier dooms it.
std::optional<Proposal> propose(const History& history, const Config& config, const char* phase,
                                const std::string& rationale) {
  if (!history.open(config)) {
    return std::nullopt;
  }
  return Proposal{config, phase, rationale, history.frontier().why(history.space(), config)};
}

// What it may cost to save memory.
enum class Price {
  kHarmless,  // no more than kHarmlessLoss, seen by itself or in a pair
  kLater,     // anything in entries of the objective after the one that is to be won
  kUnknown,   // harmless, or not tried at all
  kDoubtful,  // as kLater, or a limit was missed by so little that noise may have done it
};

class Leaning {
 public:
  Leaning(const History& history, const Singles& singles, const std::vector<Pair>& pairs, size_t served)
      : history_(history),
        singles_(singles),
        pairs_(pairs),
        served_(served),
        usual_(reference(history, singles)) {}

  // The default with each axis at the value that won by itself, largest gain first; one whose value finds no
  // repair, or that memory forbids in company, stays as it was. `with_memory` false leaves memory axes alone.
  std::vector<Change> winners(bool with_memory) const;

  // Every memory axis but `except` at its leanest value, and the other winners that go with them; `doubtful`
  // may pay Price::kDoubtful.
  std::vector<Change> leanest(size_t except, Price price, size_t doubtful = kNoAxis) const;

  // Missed a limit, by so little that noise may have done it.
  bool near_miss(const Outcome& outcome) const {
    return !usual_.objective.empty() && outcome.ok && !outcome.feasible && !outcome.out_of_memory &&
           !outcome.objective.empty() && outcome.objective.back() < usual_.objective.back() &&
           outcome.objective.back() > usual_.objective.back() * (1 - kDoubtfulLoss);
  }
  // `config` with one axis changed that takes no memory and that lost nothing by itself, the best first.
  std::vector<Config> siblings(const Config& config) const;

 private:
  const Space& space() const { return history_.space(); }

  bool acceptable(const Outcome& outcome, Price price) const {
    if (!usual_.ok || !usual_.feasible) {
      return outcome.feasible;
    }
    Difference loss = measured_difference(outcome, usual_);
    if (!outcome.feasible) {
      return price == Price::kDoubtful && near_miss(outcome);
    }
    bool later_counts = price == Price::kLater || price == Price::kDoubtful;
    return loss.relative >= -kHarmlessLoss || (later_counts && served_ != kNoEntry && loss.entry > served_);
  }

  bool acceptable(size_t axis, size_t value, Price price) const {
    if (const Outcome* outcome = alone(history_, singles_, axis, value)) {
      return acceptable(*outcome, price);
    }
    bool seen = false, fine = false;
    for (const Pair& pair : pairs_) {
      bool has = (pair.first.axis == axis && pair.first.value == value) ||
                 (pair.second.axis == axis && pair.second.value == value);
      const Outcome* outcome = has ? history_.find(pair.config) : nullptr;
      seen |= outcome != nullptr;
      fine |= outcome != nullptr && acceptable(*outcome, price);
    }
    return fine || (!seen && price == Price::kUnknown);
  }

  // No pair among these changes was seen to do harm.
  bool pairs_acceptable(const std::vector<Change>& changes, Price price) const {
    auto has = [&](const Change& wanted) {
      return std::any_of(changes.begin(), changes.end(), [&](const Change& change) {
        return change.axis == wanted.axis && change.value == wanted.value;
      });
    };
    return std::none_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) {
      const Outcome* outcome = has(pair.first) && has(pair.second) ? history_.find(pair.config) : nullptr;
      return outcome != nullptr && !outcome->out_of_memory && !acceptable(*outcome, price);
    });
  }

  const History& history_;
  const Singles& singles_;
  const std::vector<Pair>& pairs_;
  size_t served_;  // the entry of the objective that memory keeps down; kNoEntry when not known
  Outcome usual_;
};

std::vector<Change> Leaning::winners(bool with_memory) const {
  struct Won {
    Change change;
    double by = 0;
  };
  std::vector<Won> won;
  for (size_t axis = 0; usual_.ok && axis < space().axes.size(); ++axis) {
    Won best;
    for (size_t value = 0; value < space().axes[axis].values.size(); ++value) {
      const Outcome* outcome = alone(history_, singles_, axis, value);
      bool usual = value == space().axes[axis].default_index;
      double better_by = outcome != nullptr && !usual ? gain(*outcome, usual_) : 0;
      if (better_by > best.by) {
        best = {{axis, value}, better_by};
      }
    }
    if (best.by > 0 && (with_memory || !takes_memory(space().axes[axis].name))) {
      won.push_back(best);
    }
  }
  std::stable_sort(won.begin(), won.end(), [](const Won& a, const Won& b) { return a.by > b.by; });
  std::vector<Change> changes;
  for (const Won& one : won) {
    changes.push_back(one.change);
    auto config = with_changes(space(), history_.default_config(), changes);
    if (!config || history_.doomed(*config) || !pairs_acceptable(changes, Price::kUnknown)) {
      changes.pop_back();
    }
  }
  return changes;
}

std::vector<Change> Leaning::leanest(size_t except, Price usual_price, size_t doubtful) const {
  std::vector<Change> changes;
  for (size_t axis = 0; axis < space().axes.size(); ++axis) {
    const Axis& it = space().axes[axis];
    auto least = memory_demand(it.name, history_.default_config()[axis]);
    std::optional<Change> chosen;
    Price price = axis == doubtful ? Price::kDoubtful : usual_price;
    for (size_t value = 0; axis != except && least && value < it.values.size(); ++value) {
      auto demand = memory_demand(it.name, it.values[value]);
      if (!demand || *demand >= *least || !acceptable(axis, value, price)) {
        continue;
      }
      changes.push_back({axis, value});
      if (with_changes(space(), history_.default_config(), changes) && pairs_acceptable(changes, price)) {
        chosen = changes.back();
        least = demand;
      }
      changes.pop_back();
    }
    if (chosen) {
      changes.push_back(*chosen);
    }
  }
  // After them: a winner (flash attention off, by noise) must not forbid what saves memory (a quantized V cache).
  for (const Change& winner : winners(false)) {
    changes.push_back(winner);
    if (!with_changes(space(), history_.default_config(), changes) ||
        !pairs_acceptable(changes, Price::kUnknown)) {
      changes.pop_back();
    }
  }
  return changes;
}

std::vector<Config> Leaning::siblings(const Config& config) const {
  struct Sibling {
    Config config;
    double relative = 0;
  };
  std::vector<Sibling> found;
  for (size_t axis = 0; usual_.feasible && axis < space().axes.size(); ++axis) {
    const Axis& it = space().axes[axis];
    for (size_t value = 0; !takes_memory(it.name) && value < it.values.size(); ++value) {
      const Outcome* outcome = alone(history_, singles_, axis, value);
      if (outcome == nullptr || equal(it.values[value], config[axis]) || gain(*outcome, usual_) < 0) {
        continue;
      }
      if (auto changed = with_change(space(), config, axis, value)) {
        double relative = outcome->objective.back() / usual_.objective.back() - 1;
        found.push_back({std::move(*changed), relative});
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Sibling& a, const Sibling& b) { return a.relative > b.relative; });
  std::vector<Config> configs;
  for (Sibling& sibling : found) {
    configs.push_back(std::move(sibling.config));
  }
  return configs;
}

// When memory holds this axis back (some value ran out of memory alone, and nothing speaks against larger
// values otherwise): the entry of the objective that larger values win, kNoEntry when that is not known.
std::optional<size_t> held_back(const History& history, const Singles& singles, size_t axis) {
  const Axis& it = history.space().axes[axis];
  const Outcome* usual = history.find(history.default_config());
  auto at_default = memory_demand(it.name, history.default_config()[axis]);
  if (usual == nullptr || !at_default) {
    return std::nullopt;
  }
  bool blocked = false, smaller_known = false, larger_helps = false;
  size_t served = kNoEntry;
  for (size_t value = 0; value < it.values.size(); ++value) {
    auto demand = memory_demand(it.name, it.values[value]);
    const auto& config = singles.at(axis, value);
    if (!demand || !config) {
      continue;
    }
    const Outcome* outcome = history.find(*config);
    blocked |= *demand >= *at_default && history.doomed(*config);
    if (outcome != nullptr && outcome->ok && *demand < *at_default) {
      smaller_known = true;
      Difference over = difference(*usual, *outcome);
      larger_helps |= over.relative > 0;
      if (over.relative > 0 && outcome->feasible) {
        served = std::min(served, over.entry);
      }
    }
  }
  bool worth = blocked && (larger_helps || !smaller_known || !usual->ok);
  return worth ? std::optional<size_t>(served) : std::nullopt;
}

// Value indices from the largest demand down to the default's.
std::vector<size_t> values_by_demand(const Space& space, size_t axis) {
  const Axis& it = space.axes[axis];
  auto demand = [&](size_t value) { return memory_demand(it.name, it.values[value]).value_or(-1); };
  std::vector<size_t> order(it.values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::erase_if(order, [&](size_t value) { return demand(value) < demand(it.default_index); });
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return demand(a) > demand(b); });
  return order;
}

}  // namespace

TwoPhasePlan::TwoPhasePlan(const Space& space, const Limits& limits)
    : singles_(space), pairs_(plan_pairs(space)) {
  int planned = planned_trials(limits);
  max_pairs_ = std::min(pairs_.size(), static_cast<size_t>(std::max(planned / kTrialsPerPair, 0)));
  sweep_ = plan_sweep(space, singles_, planned / 2 - static_cast<int>(max_pairs_), limits.in_place);
  const Config base = space.default_config();
  auto in_place = [&](const auto& point) {
    return differ_in_place(space, limits.in_place, point.config, base);
  };
  in_place_points_ = static_cast<size_t>(std::count_if(sweep_.begin(), sweep_.end(), in_place));
  pairs_in_place_ = std::all_of(pairs_.begin(), pairs_.end(), in_place);
}

std::optional<Proposal> TwoPhasePlan::next(const History& history) const {
  const Config& base = history.default_config();
  if (history.open(base)) {
    return Proposal{base, "default", "the default configuration, to compare with"};
  }
  for (size_t i = 0; i < sweep_.size(); ++i) {
    // The pairs come with the points that share their load; they need what the sweep says of each side.
    if (i == in_place_points_ && pairs_in_place_) {
      if (auto pair = next_pair(history)) {
        return pair;
      }
    }
    const SweepPoint& point = sweep_[i];
    std::string text = change_text(history.space(), base, point.config) + ", the rest as in the default";
    if (auto proposal = propose(history, point.config, "sweep", text)) {
      return proposal;
    }
  }
  if (auto pair = next_pair(history)) {
    return pair;
  }
  if (auto combination = next_combination(history)) {
    return combination;
  }
  return next_of_ladder(history);
}

std::optional<Proposal> TwoPhasePlan::next_pair(const History& history) const {
  const Outcome* usual = history.find(history.default_config());
  // A side that broke a limit by itself will not be used: what it does in company is not worth a launch.
  auto ruled_out = [&](const Change& change) {
    const Outcome* outcome = alone(history, singles_, change.axis, change.value);
    return outcome != nullptr && usual != nullptr && usual->feasible && !outcome->feasible &&
           !outcome->out_of_memory;
  };
  size_t taken = 0;
  for (const Pair& pair : pairs_) {
    if (taken == max_pairs_) {
      break;
    }
    if (ruled_out(pair.first) || ruled_out(pair.second)) {
      continue;
    }
    ++taken;
    auto proposal =
        propose(history, pair.config, "sweep",
                "pair check: " + change_text(history.space(), history.default_config(), pair.config) +
                    "; the two share one kernel, and a pair may be slow where neither is alone");
    if (proposal) {
      return proposal;
    }
  }
  return std::nullopt;
}

std::optional<Proposal> TwoPhasePlan::next_combination(const History& history) const {
  const Config& base = history.default_config();
  auto config =
      with_changes(history.space(), base, Leaning(history, singles_, pairs_, kNoEntry).winners(true));
  if (!config) {
    return std::nullopt;
  }
  return propose(history, *config, "perturb",
                 "the best value of each axis together: " + change_text(history.space(), base, *config));
}

std::optional<Proposal> TwoPhasePlan::next_of_ladder(const History& history) const {
  for (size_t axis = 0; axis < history.space().axes.size(); ++axis) {
    if (auto served = held_back(history, singles_, axis)) {
      if (auto proposal = next_of_ladder(history, axis, *served)) {
        return proposal;
      }
    }
  }
  return std::nullopt;
}

// Where memory held an axis back, its larger values deserve a second look with every other memory axis at the
// leanest value: no walk of small steps would cross that valley.
std::optional<Proposal> TwoPhasePlan::next_of_ladder(const History& history, size_t axis,
                                                     size_t served) const {
  const Space& space = history.space();
  const Config& base = history.default_config();
  Leaning leaning(history, singles_, pairs_, served);
  // An earlier entry of the objective outweighs any loss in a later one, so there the leanest that holds every
  // limit comes first; then what was seen to be harmless; then what was not tried at all.
  std::vector<std::vector<Change>> leans;
  if (served != kNoEntry) {
    leans.push_back(leaning.leanest(axis, Price::kLater));
  }
  leans.push_back(leaning.leanest(axis, Price::kHarmless));
  leans.push_back(leaning.leanest(axis, Price::kUnknown));
  // Last, one axis at a time, a value that missed a limit by little: noise in the default's launch alone can do
  // that.
  for (size_t other = 0; other < space.axes.size(); ++other) {
    if (other != axis && takes_memory(space.axes[other].name)) {
      leans.push_back(leaning.leanest(axis, served != kNoEntry ? Price::kLater : Price::kHarmless, other));
    }
  }
  std::unordered_set<std::string> seen;
  int tried = 0;
  for (size_t value : values_by_demand(space, axis)) {
    for (std::vector<Change> changes : leans) {
      std::erase_if(changes, [&](const Change& change) { return change.axis == axis; });
      changes.push_back({axis, value});
      auto config = with_changes(space, base, changes);
      if (!config || !seen.insert(key_of(*config)).second) {
        continue;
      }
      const Outcome* outcome = history.find(*config);
      if (outcome != nullptr && (outcome->feasible || ++tried >= kMaxLadder)) {
        return std::nullopt;
      }
      auto proposal = propose(history, *config, "perturb",
                              fmt::format("{} was held back by memory; with the leanest values: {}",
                                          space.axes[axis].name, change_text(space, base, *config)));
      if (proposal) {
        return proposal;
      }
      if (outcome == nullptr || !leaning.near_miss(*outcome)) {
        continue;
      }
      int launched = 0;
      for (const Config& sibling : leaning.siblings(*config)) {
        const Outcome* seen_so_far = history.find(sibling);
        if (seen_so_far != nullptr && (seen_so_far->feasible || ++launched == kSiblings)) {
          break;
        }
        auto again = propose(
            history, sibling, "perturb",
            "a limit was missed by little; nearly the same again: " + change_text(space, *config, sibling));
        if (again) {
          return again;
        }
      }
      bool settled = std::any_of(history.entries().begin(), history.entries().end(), [&](const auto& entry) {
        return entry.outcome.feasible && equal(entry.config[axis], space.axes[axis].values[value]);
      });
      if (settled) {
        return std::nullopt;
      }
    }
  }
  return std::nullopt;
}

std::string change_text(const Space& space, const Config& from, const Config& to) {
  std::string text;
  for (size_t i = 0; i < to.size(); ++i) {
    if (!equal(from[i], to[i])) {
      text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", space.axes[i].name, to_string(from[i]),
                          to_string(to[i]));
    }
  }
  return text;
}

}  // namespace search
