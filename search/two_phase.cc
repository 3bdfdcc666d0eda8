#include "search/two_phase.h"

#include "search/history_strategy.h"
#include "search/incumbent.h"
#include "search/model_based.h"
#include "search/two_phase_plan.h"
#include "search/two_phase_steps.h"

namespace search {
namespace {

class TwoPhase final : public HistoryStrategy {
 public:
  TwoPhase(const Space& space, uint64_t seed, const Limits& limits)
      : HistoryStrategy(space, limits),
        seed_(seed),
        plan_(space, limits),
        model_(make_model_based(space, seed, limits)) {}

  void tell(const Config& config, const Outcome& outcome) override {
    // Patience counts launches of new points while no plan was left, whoever proposed them. Asking first makes
    // a replay that only tells agree with a study that asked.
    ask();
    int before = history_.launched();
    HistoryStrategy::tell(config, outcome);
    model_->tell(config, outcome);
    idle_ += stepping_ && history_.launched() > before ? 1 : 0;
    if (incumbent_.update(history_)) {
      idle_ = 0;
    }
  }

  void know(const Config& config, const Outcome& outcome) override {
    HistoryStrategy::know(config, outcome);
    model_->know(config, outcome);
    incumbent_.update(history_);
    idle_ = 0;  // the patience of the study it was launched in may be spent; this one has all of it
  }

 private:
  std::optional<Proposal> compute() override {
    stepping_ = false;
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

  uint64_t seed_;
  TwoPhasePlan plan_;
  std::unique_ptr<Strategy> model_;  // asked where steps have ended
  Incumbent incumbent_;
  int idle_ = 0;           // new points since the last real gain, planned ones left aside
  bool stepping_ = false;  // pending_ came after every plan
};

}  // namespace

std::unique_ptr<Strategy> make_two_phase(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<TwoPhase>(space, seed, limits);
}

}  // namespace search
