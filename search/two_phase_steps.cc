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
      double weight = prior + 3 * effect(history_, singles_, usual_, axis);
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

  // What the sweep says of this change by itself.
  double promise(size_t axis, size_t now, size_t value) const {
    auto seen = [&](size_t index) {
      return index == space().axes[axis].default_index && usual_.ok ? &usual_
                                                                    : alone(history_, singles_, axis, index);
    };
    const Outcome* here = seen(now);
    const Outcome* there = seen(value);
    if (here == nullptr || there == nullptr || there->out_of_memory) {
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
  auto drawn = steps.draw(Rng(seed, static_cast<uint64_t>(history.launched())));
  return drawn ? drawn : steps.walk();
}

}  // namespace search
