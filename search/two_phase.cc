#include "search/two_phase.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "search/axis_facts.h"
#include "search/history.h"
#include "search/rng.h"
#include "search/sweep.h"

namespace search {
namespace {

constexpr double kTwoAxes = 0.4;  // share of steps that change two axes
constexpr int kDraws = 400;       // attempts at a weighted step before the neighbourhood is walked in order
constexpr size_t kMaxPairs = 20000;  // two-axis steps looked at in that walk
constexpr int kMaxLadder = 4;        // trials given to one axis that memory held back
constexpr double kHarmless = 0.03;   // a loss below this is a price worth paying for memory

struct Move {
  size_t axis = 0, value = 0;
  double weight = 0;
};

int planned_trials(const Limits& limits) {
  return limits.expected_trials > 0 ? std::min(limits.expected_trials, limits.max_trials) : limits.max_trials;
}

class TwoPhase final : public Strategy {
 public:
  TwoPhase(const Space& space, uint64_t seed, const Limits& limits)
      : history_(space),
        limits_(limits),
        seed_(seed),
        sweep_(plan_sweep(space, planned_trials(limits) / 2)) {}

  std::optional<Proposal> ask() override {
    if (!computed_) {
      pending_ = compute();
      computed_ = true;
    }
    return pending_;
  }

  void tell(const Config& config, const Outcome& outcome) override {
    // Patience counts from the first tell that no plan stood behind.
    if (!steps_from_ && !planned()) {
      steps_from_ = history_.entries().size();
    }
    History::Entry best_before;
    const History::Entry* best = history_.best();
    if (best != nullptr) {
      best_before = *best;
    }
    history_.tell(config, outcome);
    bool leads = outcome.feasible && history_.best() == &history_.entries().back();
    if (leads && (best == nullptr || gain(outcome, best_before.outcome) > 0)) {
      improved_at_ = history_.entries().size();
    }
    computed_ = false;
  }

  bool done() const override { return history_.distinct() >= limits_.max_trials || (computed_ && !pending_); }

 private:
  const Space& space() const { return history_.space(); }
  const Config& base() const { return history_.default_config(); }

  std::optional<Proposal> compute() const {
    if (history_.distinct() >= limits_.max_trials) {
      return std::nullopt;
    }
    if (auto proposal = planned()) {
      return proposal;
    }
    size_t since = std::max(improved_at_, steps_from_.value_or(history_.entries().size()));
    if (history_.entries().size() - std::min(since, history_.entries().size()) >= kPatience) {
      return std::nullopt;
    }
    return step();
  }

  // Everything before the steps: default, sweep, combination, memory ladder.
  std::optional<Proposal> planned() const {
    if (history_.worth_trying(base())) {
      return Proposal{base(), "default", "the default configuration, to compare with"};
    }
    for (const SweepPoint& point : sweep_) {
      Config config = changed(space(), base(), point.axis, point.value);
      if (history_.worth_trying(config)) {
        return Proposal{config, "sweep", changes(base(), config) + ", the rest as in the default"};
      }
    }
    if (auto proposal = combination()) {
      return proposal;
    }
    return memory_ladder();
  }

  // The default with each axis at the value that won by itself; an axis whose value breaks a constraint or
  // memory in company stays as it was. `with_memory` false leaves memory axes alone.
  Config winners(bool with_memory) const {
    const Outcome* usual = history_.find(base());
    std::vector<Move> won;
    for (size_t axis = 0; usual != nullptr && axis < space().axes.size(); ++axis) {
      Move move{axis, 0, 0};
      for (size_t value = 0; value < space().axes[axis].values.size(); ++value) {
        const Outcome* outcome = alone(history_, axis, value);
        double better_by = outcome != nullptr ? gain(*outcome, *usual) : 0;
        if (better_by > move.weight) {
          move = {axis, value, better_by};
        }
      }
      if (move.weight > 0 && (with_memory || !takes_memory(space().axes[axis].name))) {
        won.push_back(move);
      }
    }
    std::stable_sort(won.begin(), won.end(),
                     [](const Move& a, const Move& b) { return a.weight > b.weight; });
    Config config = base();
    for (const Move& move : won) {
      Config with = changed(space(), config, move.axis, move.value);
      if (space().violated(with).empty() && !history_.must_run_out_of_memory(with)) {
        config = with;
      }
    }
    return config;
  }

  std::optional<Proposal> combination() const {
    Config config = winners(true);
    if (!history_.worth_trying(config)) {
      return std::nullopt;
    }
    return Proposal{config, "perturb", "the best value of each axis together: " + changes(base(), config)};
  }

  // Where memory held an axis back, its larger values deserve a second look with every other memory axis at
  // the leanest value that did no harm by itself: no walk of small steps would cross that valley.
  std::optional<Proposal> memory_ladder() const {
    for (size_t axis = 0; axis < space().axes.size(); ++axis) {
      if (!held_back(axis)) {
        continue;
      }
      // What was tried by itself first; then the values that were not, which may still be harmless.
      const Config leans[] = {leanest(axis, false), leanest(axis, true)};
      int tried = 0;
      bool settled = false;
      for (size_t value : values_by_demand(axis)) {
        for (const Config& lean : leans) {
          Config config = changed(space(), lean, axis, value);
          const Outcome* outcome = history_.find(config);
          settled |= outcome != nullptr && (outcome->feasible || ++tried >= kMaxLadder);
          if (!settled && history_.worth_trying(config)) {
            return Proposal{config, "perturb",
                            fmt::format("{} was held back by memory; with the leanest harmless values: {}",
                                        space().axes[axis].name, changes(base(), config))};
          }
        }
        if (settled) {
          break;
        }
      }
    }
    return std::nullopt;
  }

  // Some value of this axis alone ran out of memory, and nothing speaks against larger values otherwise.
  bool held_back(size_t axis) const {
    const auto& values = space().axes[axis].values;
    const Outcome* usual = history_.find(base());
    auto at_default = memory_demand(space().axes[axis].name, base()[axis]);
    if (usual == nullptr || !at_default) {
      return false;
    }
    bool blocked = false;
    bool smaller_known = false;
    bool larger_helps = false;
    for (size_t value = 0; value < values.size(); ++value) {
      auto demand = memory_demand(space().axes[axis].name, values[value]);
      Config config = changed(space(), base(), axis, value);
      const Outcome* outcome = history_.find(config);
      blocked |= demand && *demand >= *at_default && history_.must_run_out_of_memory(config);
      if (outcome != nullptr && outcome->ok && demand && *demand < *at_default) {
        smaller_known = true;
        larger_helps |= gain(*usual, *outcome) > 0;
      }
    }
    return blocked && (larger_helps || !smaller_known || !usual->ok);
  }

  Config leanest(size_t except, bool untried_too) const {
    const Outcome* usual = history_.find(base());
    Config config = winners(false);
    for (size_t axis = 0; axis < space().axes.size(); ++axis) {
      auto least = memory_demand(space().axes[axis].name, config[axis]);
      for (size_t value = 0; axis != except && least && value < space().axes[axis].values.size(); ++value) {
        auto demand = memory_demand(space().axes[axis].name, space().axes[axis].values[value]);
        const Outcome* outcome = alone(history_, axis, value);
        bool harmless =
            outcome != nullptr ? outcome->feasible && gain(*outcome, *usual) >= -kHarmless : untried_too;
        Config with = changed(space(), config, axis, value);
        if (harmless && demand && *demand < *least && space().violated(with).empty()) {
          config = with;
          least = demand;
        }
      }
    }
    return config;
  }

  // Value indices from the largest demand down to the default's.
  std::vector<size_t> values_by_demand(size_t axis) const {
    const Axis& it = space().axes[axis];
    auto at_default = memory_demand(it.name, base()[axis]).value_or(0);
    std::vector<size_t> order(it.values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    auto demand = [&](size_t value) { return memory_demand(it.name, it.values[value]).value_or(-1); };
    std::erase_if(order, [&](size_t value) { return demand(value) < at_default; });
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return demand(a) > demand(b); });
    return order;
  }

  std::optional<Proposal> step() const {
    const History::Entry* best = history_.best();
    const Config& from = best != nullptr ? best->config : base();
    std::vector<Move> moves = moves_from(from);
    double total = 0;
    for (const Move& move : moves) {
      total += move.weight;
    }
    Rng rng(seed_, static_cast<uint64_t>(history_.distinct()));
    auto draw = [&]() -> const Move& {
      double left = rng.uniform() * total;
      for (const Move& move : moves) {
        left -= move.weight;
        if (left < 0) {
          return move;
        }
      }
      return moves.back();
    };
    for (int attempt = 0; attempt < kDraws && !moves.empty(); ++attempt) {
      const Move& first = draw();
      Config config = changed(space(), from, first.axis, first.value);
      if (rng.uniform() < kTwoAxes) {
        const Move& second = draw();
        if (second.axis == first.axis) {
          continue;
        }
        config = changed(space(), config, second.axis, second.value);
      }
      if (history_.worth_trying(config)) {
        return step_to(from, config);
      }
    }
    return walk(from, moves);
  }

  // Every step in order, when draws find none: the neighbourhood is nearly used up.
  std::optional<Proposal> walk(const Config& from, const std::vector<Move>& moves) const {
    size_t pairs = 0;
    for (const Move& first : moves) {
      Config config = changed(space(), from, first.axis, first.value);
      if (history_.worth_trying(config)) {
        return step_to(from, config);
      }
    }
    for (const Move& first : moves) {
      Config once = changed(space(), from, first.axis, first.value);
      for (const Move& second : moves) {
        if (second.axis <= first.axis || ++pairs > kMaxPairs) {
          continue;
        }
        Config config = changed(space(), once, second.axis, second.value);
        if (history_.worth_trying(config)) {
          return step_to(from, config);
        }
      }
    }
    return std::nullopt;
  }

  Proposal step_to(const Config& from, const Config& config) const {
    return Proposal{config, "perturb", "a step from the best so far: " + changes(from, config)};
  }

  // One step along ordered axes, any other name along the rest.
  std::vector<Move> moves_from(const Config& from) const {
    std::vector<Move> moves;
    for (size_t axis = 0; axis < space().axes.size(); ++axis) {
      const Axis& it = space().axes[axis];
      size_t now = it.index_of(from[axis]);
      std::vector<Move> here;
      for (size_t value = 0; value < it.values.size(); ++value) {
        bool reachable = it.ordered ? value + 1 == now || value == now + 1 : value != now;
        if (reachable) {
          here.push_back({axis, value, promise(axis, now, value)});
        }
      }
      double prior = 1 / (1 + 0.2 * importance_rank(it.name));
      double weight = prior + 3 * effect(history_, axis);
      for (Move& move : here) {
        move.weight *= weight / static_cast<double>(here.size());
      }
      moves.insert(moves.end(), here.begin(), here.end());
    }
    return moves;
  }

  // What the sweep says of this change by itself.
  double promise(size_t axis, size_t now, size_t value) const {
    const Outcome* here = alone(history_, axis, now);
    const Outcome* there = alone(history_, axis, value);
    if (here == nullptr || there == nullptr || there->out_of_memory) {
      return 1;  // memory may have come free since
    }
    double better_by = gain(*there, *here);
    return better_by > 0 ? 2 : better_by < 0 ? 0.15 : 0.6;
  }

  // "ctx_size 16384 -> 32768, n_threads 10 -> 20"
  std::string changes(const Config& from, const Config& to) const {
    std::string text;
    for (size_t i = 0; i < to.size(); ++i) {
      if (!equal(from[i], to[i])) {
        text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", space().axes[i].name,
                            to_string(from[i]), to_string(to[i]));
      }
    }
    return text;
  }

  History history_;
  Limits limits_;
  uint64_t seed_;
  std::vector<SweepPoint> sweep_;
  std::optional<size_t> steps_from_;  // entries told when the plans first ran out
  size_t improved_at_ = 0;            // entries told when the best last got better
  bool computed_ = false;
  std::optional<Proposal> pending_;
};

}  // namespace

std::unique_ptr<Strategy> make_two_phase(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<TwoPhase>(space, seed, limits);
}

}  // namespace search
