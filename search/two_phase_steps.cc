#include "search/two_phase_steps.h"

#include <algorithm>

#include "search/axis_facts.h"
#include "search/rng.h"
#include "search/two_phase_plan.h"

namespace search {
namespace {

constexpr double kTwoAxes = 0.4;  // share of steps that change two axes
constexpr int kDraws = 400;       // attempts at a weighted step before the neighbourhood is walked in order
constexpr size_t kMaxPairs = 20'000;  // two-axis steps looked at in that walk
constexpr double kInPlaceBonus = 1.5;
constexpr double kEffectWeight = 3;

struct Move {
  Change change;
  double weight = 0;
};

class Steps {
 public:
  Steps(const History& history, const Singles& singles, const Config& centre,
        const std::vector<std::string>& in_place)
      : history_(history),
        singles_(singles),
        centre_(centre),
        in_place_(in_place),
        usual_(reference(history, singles)) {
    add_moves();
  }

  std::optional<Proposal> draw(Rng rng) const;
  // Every value that did better than the centre's over all launches so far, together.
  std::optional<Proposal> gather() const;
  // Every step in order, when draws find none: the neighbourhood is nearly used up.
  std::optional<Proposal> walk() const;

 private:
  const Space& space() const { return history_.space(); }

  std::optional<Proposal> propose(std::span<const Change> changes) const {
    auto config = with_changes(space(), centre_, changes);
    if (!config || !history_.worth_trying(*config)) {
      return std::nullopt;
    }
    return Proposal{*config, "perturb",
                    "a step from the best so far: " + change_text(space(), centre_, *config)};
  }

  void add_moves() {
    for (size_t axis = 0; axis < space().axes.size(); ++axis) {
      const Axis& it = space().axes[axis];
      size_t now = it.index_of(centre_[axis]);
      std::vector<Move> here;
      for (size_t value = 0; value < it.values.size(); ++value) {
        bool reachable = it.ordered ? value + 1 == now || value == now + 1 : value != now;
        if (reachable) {
          here.push_back({{axis, value}, promise(axis, now, value)});
        }
      }
      double prior = 1 / (1 + 0.2 * importance_rank(it.name));
      double weight = prior + kEffectWeight * effect(history_, singles_, usual_, axis);
      if (std::find(in_place_.begin(), in_place_.end(), it.name) != in_place_.end()) {
        weight *= kInPlaceBonus;
      }
      for (Move& move : here) {
        move.weight *= weight / static_cast<double>(here.size());
        total_ += move.weight;
      }
      moves_.insert(moves_.end(), here.begin(), here.end());
    }
  }

  // What is known of this change: the sweep's word where a limit or memory was concerned, else the mean of
  // every launch with that value, whatever the others were.
  double promise(size_t axis, size_t now, size_t value) const {
    auto here = seen(axis, now);
    auto there = seen(axis, value);
    if (!here || !there || there->out_of_memory) {
      return 1;  // memory may have come free since
    }
    double better_by = gain(*there, *here);
    if (better_by != 0) {
      return better_by > 0 ? 3 : 0.15;
    }
    // Within noise: the sign is still the better guess.
    bool looks_better = here->feasible && better(*there, *here, kObjectiveTolerance);
    return looks_better ? 1 : 0.5;
  }

  std::optional<Outcome> seen(size_t axis, size_t value) const {
    const Outcome* single = alone(history_, singles_, axis, value);
    if (single != nullptr && !single->feasible) {
      return *single;
    }
    std::vector<Outcome> outcomes;
    for (const History::Entry& entry : history_.entries()) {
      Outcome loud = entry.outcome;
      loud.noise = 1e9;  // the last entry of the objective may differ as it likes, the others may not
      if (entry.outcome.feasible && equal(entry.config[axis], space().axes[axis].values[value]) &&
          measured_difference(loud, usual_).relative == 0) {
        outcomes.push_back(entry.outcome);
      }
    }
    if (!outcomes.empty()) {
      return pooled(outcomes);
    }
    return single != nullptr ? std::optional<Outcome>(*single) : std::nullopt;
  }

  const Move& pick(Rng& rng) const {
    double left = rng.uniform() * total_;
    for (const Move& move : moves_) {
      left -= move.weight;
      if (left < 0) {
        return move;
      }
    }
    return moves_.back();
  }

  const History& history_;
  const Singles& singles_;
  const Config& centre_;
  const std::vector<std::string>& in_place_;
  Outcome usual_;
  std::vector<Move> moves_;
  double total_ = 0;
};

std::optional<Proposal> Steps::draw(Rng rng) const {
  for (int attempt = 0; attempt < kDraws && !moves_.empty(); ++attempt) {
    std::vector<Change> changes = {pick(rng).change};
    if (rng.uniform() < kTwoAxes) {
      changes.push_back(pick(rng).change);
      if (changes[0].axis == changes[1].axis) {
        continue;
      }
    }
    if (auto proposal = propose(changes)) {
      return proposal;
    }
  }
  return std::nullopt;
}

std::optional<Proposal> Steps::gather() const {
  std::vector<Change> changes;
  for (size_t axis = 0; axis < space().axes.size(); ++axis) {
    const Axis& it = space().axes[axis];
    size_t now = it.index_of(centre_[axis]);
    auto here = seen(axis, now);
    std::optional<Change> best;
    double most = 0;
    for (size_t value = 0; here && !takes_memory(it.name) && value < it.values.size(); ++value) {
      auto there = value != now ? seen(axis, value) : std::nullopt;
      double better_by = there ? gain(*there, *here) : 0;
      if (better_by > most) {
        most = better_by;
        best = {axis, value};
      }
    }
    if (best) {
      changes.push_back(*best);
    }
  }
  return changes.empty() ? std::nullopt : propose(changes);
}

std::optional<Proposal> Steps::walk() const {
  for (const Move& move : moves_) {
    if (auto proposal = propose({&move.change, 1})) {
      return proposal;
    }
  }
  size_t pairs = 0;
  for (const Move& first : moves_) {
    for (const Move& second : moves_) {
      if (second.change.axis <= first.change.axis || ++pairs > kMaxPairs) {
        continue;
      }
      const Change changes[] = {first.change, second.change};
      if (auto proposal = propose(changes)) {
        return proposal;
      }
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Proposal> next_step(const History& history, const Singles& singles, const Config& centre,
                                  uint64_t seed, const std::vector<std::string>& in_place) {
  Steps steps(history, singles, centre, in_place);
  if (history.launched() % 2 == 0) {
    if (auto gathered = steps.gather()) {
      return gathered;
    }
  }
  auto drawn = steps.draw(Rng(seed, static_cast<uint64_t>(history.launched())));
  return drawn ? drawn : steps.walk();
}

}  // namespace search
