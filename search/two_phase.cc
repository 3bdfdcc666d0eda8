#include "search/two_phase.h"

#include "search/history.h"
#include "search/incumbent.h"
#include "search/model_based.h"
#include "search/two_phase_plan.h"
#include "search/two_phase_steps.h"

namespace search {
namespace {

class TwoPhase final : public Strategy {
 public:
  TwoPhase(const Space& space, uint64_t seed, const Limits& limits)
      : history_(space),
        limits_(limits),
        seed_(seed),
        plan_(space, limits),
        model_(make_model_based(space, seed, limits)) {}

  std::optional<Proposal> ask() override {
    if (!computed_) {
      stepping_ = false;
      pending_ = compute();
      computed_ = true;
    }
    return pending_;
  }

  void tell(const Config& config, const Outcome& outcome) override {
    // Patience counts launches of new points while no plan was left, whoever proposed them. Asking first makes
    // a replay that only tells agree with a study that asked.
    ask();
    int before = history_.launched();
    history_.tell(config, outcome);
    model_->tell(config, outcome);
    idle_ += stepping_ && history_.launched() > before ? 1 : 0;
    if (incumbent_.update(history_)) {
      idle_ = 0;
    }
    computed_ = false;
  }

  bool done() const override { return history_.used_up(limits_) || (computed_ && !pending_); }

 private:
  std::optional<Proposal> compute() {
    if (history_.used_up(limits_)) {
      return std::nullopt;
    }
    if (const Config* doomed = history_.due_audit()) {
      return Proposal{*doomed, "perturb",
                      "audit of what was skipped, launched all the same: " +
                          history_.frontier().why(history_.space(), *doomed)};
    }
    if (auto planned = plan_.next(history_)) {
      return planned;
    }
    stepping_ = true;
    if (idle_ >= 2 * patience()) {
      return std::nullopt;
    }
    std::optional<Proposal> step;
    if (idle_ < patience()) {
      const History::Entry* best = incumbent_.get(history_);
      step = next_step(history_, plan_.singles(), best != nullptr ? best->config : history_.default_config(),
                       seed_, limits_.in_place);
    }
    return step ? step : model_->ask();
  }

  int patience() const {
    const History::Entry* best = incumbent_.get(history_);
    return best != nullptr && best->outcome.noise > kNoisy ? kPatienceInNoise : kPatience;
  }

  History history_;
  Limits limits_;
  uint64_t seed_;
  TwoPhasePlan plan_;
  std::unique_ptr<Strategy> model_;  // asked where steps have ended
  Incumbent incumbent_;
  int idle_ = 0;           // new points since the last real gain, planned ones left aside
  bool stepping_ = false;  // pending_ came after every plan
  bool computed_ = false;
  std::optional<Proposal> pending_;
};

}  // namespace

std::unique_ptr<Strategy> make_two_phase(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<TwoPhase>(space, seed, limits);
}

}  // namespace search
