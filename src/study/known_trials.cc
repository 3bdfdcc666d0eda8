// A warm start in the loop: what an earlier study measured is told to the strategy once the default has run, and the
// best of it is launched again before anything is built on it.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "search/pareto.h"
#include "src/study/loop_state.h"
#include "src/study/record.h"

namespace study {
namespace {

// At most so many of the known are launched again, each only where it would lead; of a front more are wanted.
constexpr int kMostChecks = 3, kMostFrontChecks = 8;
constexpr double kWorthNoting = 0.1;  // of the machine's speed then

}  // namespace

base::Result<void> Loop::read_known(const base::Json& header) {
  const base::Json warm = header.is_object() ? header.value("warm_start", base::Json()) : base::Json();
  if (!warm.is_object()) {
    return {};
  }
  known_from_ = base::json_get<std::string>(warm, "study_id", "");
  for (const base::Json& entry : warm.value("known", base::Json::array())) {
    auto config = search::from_json(
        study_.space, entry.is_object() ? entry.value("params", base::Json::object()) : base::Json::object());
    auto status = parse_status(base::json_get<std::string>(entry, "status", ""));
    if (!config || !status) {
      return base::error(fmt::format("{}: warm_start", journal_.path()),
                         config ? "a known trial without a status" : config.failure().to_string(),
                         "the journal was changed by hand: restore it, or start a new study");
    }
    KnownTrial known;
    known.config = study_.space.canonical(*config);
    known.key = key_of(known.config);
    known.trial_id = base::json_get<int>(entry, "trial_id", 0);
    known.status = *status;
    known.metrics = metrics_of(study_.space, entry);
    if (auto noise = entry.find("noise"); noise == entry.end() || noise->is_number()) {
      known.noise = base::json_get<double>(entry, "noise", 0);
    }
    known.launches = std::max(base::json_get<int>(entry, "launches", 1), 1);
    known_.push_back(std::move(known));
  }
  return {};
}

void Loop::tell_known() {
  if (known_told_) {
    return;
  }
  known_told_ = true;
  double factor = 1;  // the machine is so many times as slow as it was then, by the default
  for (const KnownTrial& known : known_) {
    if (known.key == default_key_ && known.status == Status::kOk && known.metrics && have_default_) {
      auto then = speed_level(study_, *known.metrics), now = speed_level(study_, default_metrics_);
      factor = then && now ? *then / *now : 1;
    }
  }
  if (std::fabs(std::log(factor)) > kWorthNoting) {
    observer_.note(
        fmt::format("the default runs at {:.2f} of its speed in the study of the warm start; that is taken "
                    "out of what is known",
                    1 / factor));
  }
  for (KnownTrial& known : known_) {
    if (known.metrics) {
      known.metrics = slowed(*known.metrics, factor);
      if (known.status == Status::kOk && is_reference(study_, *known.metrics)) {
        references_.push_back(*known.metrics);
      }
    }
  }
  for (KnownTrial& known : known_) {
    if (known.key == default_key_) {
      continue;  // has just run
    }
    Judgement judgement;
    if (known.metrics) {
      if (known.status == Status::kOk) {
        judgement = judge(study_, *known.metrics, default_metrics(), references_);
      }
      known.outcome = outcome_of(study_, judgement, *known.metrics);
      // Its own launches, and the one by which the speeds of then and now were compared.
      known.outcome.noise = known.noise.value_or(sigma()) * std::sqrt(1 + 1.0 / known.launches);
    } else {
      known.outcome.out_of_memory = means_out_of_memory(known.status);
    }
    if (plugin_ != nullptr) {
      search::PluginTrial told;
      told.trial_id = known.trial_id;
      told.known = true;
      told.config = known.config;
      told.outcome = known.outcome;
      told.status = to_string(known.status);
      told.violations = judgement.violations;
      told.metrics = known.metrics ? metrics_json(*known.metrics) : base::Json(nullptr);
      plugin_->remember(std::move(told));
    }
    strategy_->know(known.config, known.outcome);
  }
}

std::optional<search::Proposal> Loop::next_check() const {
  const bool pareto = study_.objective.pareto;
  if (!known_told_ || checks_ >= (pareto ? kMostFrontChecks : kMostChecks)) {
    return std::nullopt;
  }
  const KnownTrial* best = nullptr;
  search::Outcome peak;
  if (const Ranked* leader = ranking_.leader(sigma(), default_key_); leader != nullptr && !pareto) {
    peak.ok = peak.feasible = true;
    peak.objective = leader->objective;
  }
  for (const KnownTrial& known : known_) {
    if (!known.outcome.feasible || checked_.contains(known.key)) {
      continue;
    }
    if (pareto ? on_known_front(known) : search::better(known.outcome, peak, search::kObjectiveTolerance)) {
      best = &known;
      peak = known.outcome;
      if (pareto) {
        break;
      }
    }
  }
  if (best == nullptr) {
    return std::nullopt;
  }
  return search::Proposal{
      best->config, std::string(kCheckPhase),
      fmt::format("the best that study {} knew (its trial {}), launched again", known_from_, best->trial_id)};
}

bool Loop::on_known_front(const KnownTrial& known) const {
  return std::none_of(known_.begin(), known_.end(), [&](const KnownTrial& other) {
    return other.outcome.feasible && other.outcome.objective.size() == known.outcome.objective.size() &&
           search::dominates(other.outcome.objective, known.outcome.objective);
  });
}

}  // namespace study
