// What the loop learns from a trial that has ended, live or replayed.

#include <fmt/format.h>

#include <cmath>

#include "src/study/loop_state.h"
#include "src/study/perplexity_record.h"
#include "src/study/racing.h"

namespace study {

// What a launch says of noise, drift and the default's speed.
void Loop::learn_speed(const EndedTrial& trial) {
  if (trial.status != Status::kOk || !trial.metrics || trial.phase == kConfirmPhase) {
    return;  // confirmation is judged by its own scatter, and planned before it begins
  }
  auto value = [&](const char* name) {
    auto found = trial.metrics->values.find(name);
    return found != trial.metrics->values.end() ? found->second : 0;
  };
  for (Noise* noise : {&noise_, &between_}) {
    noise->add_samples(value("decode_tps"), value("decode_tps_mad"),
                       static_cast<int>(value("decode_tps_samples")));
  }
  auto level = speed_level(study_, *trial.metrics);
  double judged = trial.judgement.objective.empty() ? 0 : trial.judgement.objective.back();
  // One quantity only: what is judged where noise acts on it (0, not known, is ignored), else the speed.
  double value_seen = speed_decides() ? judged : level.value_or(0) / trial.drift;
  noise_.add_launch(trial.key, value_seen);
  process_ += trial.times.cold ? 1 : 0;
  if (int& last = last_process_[trial.key]; last != process_) {
    last = process_;
    between_.add_launch(trial.key, value_seen);
  }
  if (trial.key != default_key_) {
    return;
  }
  if (!have_default_) {
    have_default_ = true;
    default_metrics_ = *trial.metrics;
  }
  const TrialMetrics steady = slowed(*trial.metrics, trial.drift);
  for (const char* name : {"decode_tps", "prefill_tps", "decode_tps_at_half_context", "ttft_ms"}) {
    auto seen = steady.values.find(name);
    if (seen != steady.values.end() && seen->second > 0) {
      auto& [sum, n] = default_speeds_[name];
      sum += std::log(seen->second);
      default_metrics_.values[name] = std::exp(sum / ++n);
    }
  }
  if (level) {
    default_levels_.push_back(*level);
    Drift now = drift_of(default_levels_);
    if (now.flagged && !drift_.flagged) {
      observer_.note(
          fmt::format("the machine drifts: the default now runs at {:.2f} of its first speed; speeds are "
                      "judged with that taken out",
                      now.factor));
    }
    drift_ = now;
  }
}

void Loop::learn_losses(const EndedTrial& trial) {
  if (trial.perplexity == nullptr || !trial.perplexity->is_object()) {
    return;
  }
  std::string why = base::json_get<std::string>(*trial.perplexity, "unsupported", "");
  if (!why.empty()) {
    // Another binary may give them, and so may a server that gave them before, or says nothing of all time.
    no_losses_ = no_losses_ || (study_.space.find("binary") == nullptr && !losses_given_ &&
                                base::json_get<bool>(*trial.perplexity, "for_good", true));
    if (!base::json_get<bool>(*trial.perplexity, "for_good", true)) {
      observer_.note(fmt::format("trial {} has no perplexity: {}", trial.trial_id, why));
    } else if (!told_no_losses_ &&
               study_.backend.kind != BackendKind::kLlamaServer) {  // of that one it was said before
      observer_.note("perplexity is not measured: " + why);
      told_no_losses_ = true;
    }
  } else {
    losses_given_ = losses_given_ || trial.perplexity->contains("ppl");
  }
  if (default_losses_) {
    losses_by_key_.clear();
    return;
  }
  auto losses = losses_of(*trial.perplexity);
  if (losses) {
    losses->trial_id = trial.trial_id;
  }
  if (trial.key == default_key_) {
    auto cited = losses_by_key_.find(trial.numerics_key);
    default_losses_ = losses                          ? losses
                      : cited != losses_by_key_.end() ? std::optional(cited->second)
                                                      : std::nullopt;
  } else if (losses && !trial.numerics_key.empty()) {
    losses_by_key_.emplace(trial.numerics_key, std::move(*losses));
  }
}

void Loop::learn_confirmation(const EndedTrial& trial, bool launched, double value) {
  Series& series = series_[trial.parent_id];
  if (series.planned == 0) {
    series.planned = trial.confirm_planned;
    series.blocks = trial.confirm_in_place;
  }
  // What was to be a fresh process and was none says nothing of one.
  if (!launched || (trial.cold_required && !trial.times.cold)) {
    ++series.failures;
    series.machine_lost |= trial.status == Status::kHostCrash;
    return;
  }
  bool winner = trial.key != default_key_;
  if (trial.cold_required) {
    (winner ? series.winner : series.baseline).push_back(value);
  } else {
    series.in_place.push_back({winner, value, trial.times.cold});
  }
  if (!winner) {
    return;
  }
  ++series.winner_launches;
  if (!trial.judgement.feasible) {
    ++series.missed;
    TrialMetrics whole = answers_.complete(trial.key, slowed(*trial.metrics, trial.drift));
    double error = std::max(noise_.relative_se(repeats()), between_.relative_se(repeats()));
    series.broken |= broken_limit(study_, whole, default_metrics(), references_, error).has_value();
  }
}

bool Loop::learn(const EndedTrial& trial) {
  if (trial.status != Status::kSkippedPredicted) {
    pace_.learn(trial.times);
    trials_s_ += trial.times.total_s;
  }
  learn_speed(trial);
  learn_losses(trial);
  bool launched = trial.status == Status::kOk && !trial.judgement.objective.empty();
  double value = launched ? trial.judgement.objective.back() : 0;
  if (trial.phase == kConfirmPhase) {
    learn_confirmation(trial, launched, value);
    return false;
  }
  if (is_repeated(trial.phase)) {
    bool anchor = trial.phase == kAnchorPhase, final = trial.phase == kFinalPhase;
    bool repeat = trial.phase == kRepeatPhase;
    repeating_ = repeat || (repeating_ && anchor);
    // Repeats are no trials, nor are the anchors among them: the machine drifts then as it did before.
    ended_ += anchor && !repeating_ && ended_ < options_.max_trials ? 1 : 0;
    since_anchor_ = anchor || (repeat && trial.key == default_key_) ? 0 : since_anchor_ + (repeat ? 1 : 0);
    for (Repeated& ran : ran_) {
      ran.tries += repeat && ran.key == trial.key ? 1 : 0;
    }
    if (launched) {
      ranking_.add_launch(trial.key, value, trial.judgement.feasible, final);
    } else if (final) {
      ranking_.add_failure(trial.key);
    }
  } else {
    repeating_ = false;
    if (trial.key == default_key_ && ended_ == 0 && may_pass(trial.status)) {
      ++ended_;  // the search, which does not hear of it, asks for the default once more
      ++since_anchor_;
      observer_.note("the default failed; everything is compared with it, so it is launched once more");
      return false;
    }
    tell_plugin(trial);
    strategy_->tell(trial.config, trial.outcome);
    if (trial.key == default_key_) {
      tell_known();
    }
    if (trial.status == Status::kSkippedPredicted) {
      return false;
    }
    ++ended_;
    ++since_anchor_;
    checks_ += trial.phase == kCheckPhase ? 1 : 0;
    checked_.insert(trial.key);
    default_ok_ |= trial.key == default_key_ && trial.status == Status::kOk;
    if (trial.status == Status::kOk) {
      ran_.push_back({trial.config, trial.key});
    }
    if (trial.metrics && trial.status == Status::kOk) {
      answers_.add(trial.key, *trial.metrics);
      if (is_reference(study_, *trial.metrics)) {
        references_.push_back(*trial.metrics);
      }
      bool once = trial.perplexity != nullptr && trial.perplexity->is_object() &&
                  !base::json_get<bool>(*trial.perplexity, "for_good", true);  // the next may have them
      if (!trial.numerics_key.empty() && !trial.cited && !once && !numerics_.contains(trial.numerics_key)) {
        NumericsResult& known = numerics_[trial.numerics_key];
        known.trial_id = trial.trial_id;
        known.quality = trial.quality != nullptr ? *trial.quality : base::Json(nullptr);
        known.needle = trial.needle != nullptr ? *trial.needle : base::Json(nullptr);
        known.perplexity =
            trial.perplexity != nullptr ? without_losses(*trial.perplexity) : base::Json(nullptr);
        for (const char* name : {"quality", "needle_recall", "ppl", "ppl_change"}) {
          if (auto found = trial.metrics->values.find(name); found != trial.metrics->values.end()) {
            known.values[name] = found->second;
          }
        }
        known.quality_items = trial.metrics->quality_items;
      }
    }
    if (trial.outcome.feasible) {
      ranking_.add(trial.key, trial.config, trial.trial_id, trial.outcome.objective);
    }
  }
  const Ranked* leader = ranking_.leader(sigma(), default_key_);
  int id = leader == nullptr ? 0 : leader->trial_id;
  bool changed = id != leader_id_;
  leader_id_ = id;
  return changed && id == trial.trial_id;
}

}  // namespace study
