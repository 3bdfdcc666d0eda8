// The end of a study: finals among those that cannot be told apart, then winner against default on fresh launches.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "search/strategy.h"
#include "src/study/interrupt.h"
#include "src/study/loop_state.h"

namespace study {
namespace {

constexpr int kFailuresForgiven = 2;  // launches of one confirmation that may fail
constexpr int kRestartsForgiven = 8;  // fresh processes that its blocks may need
// Launches are planned for a log-ratio of at most this: what was seen larger may be luck.
constexpr double kPlannedEffect = 0.085;
constexpr double kWorthwhile =
    1.03;  // an effect that "the default stands" must rule out when launches are missing

// Beyond noise, and more than what the objective takes for equal.
bool shows_gain(const Comparison& comparison) {
  return comparison.low > 1 && comparison.ratio > 1 + search::kObjectiveTolerance;
}

// A launch that took the machine down is never tried again.
bool too_many_failures(const Series& series) {
  return series.machine_lost || series.failures > kFailuresForgiven;
}

}  // namespace

double Loop::final_s() const {
  if (options_.confirm_launches == 0 || sigma() == 0) {
    return 0;
  }
  auto contenders = static_cast<int>(ranking_.contenders(sigma(), default_key_).size());
  int launches = 0;
  for (int wave : kFinalWaves) {
    launches += std::min(wave, contenders);
  }
  return launches * pace_.speed_trial_s(true);
}

double Loop::confirmation_s() const {
  double effect = 0.05;  // worth finding; the one that was seen may be luck
  int pairs = pairs_needed(effect, sigma() * std::sqrt(2.0), std::max(kLeastPairs, options_.confirm_launches),
                           kMostPairs);
  return 2.0 * pairs * pace_.speed_trial_s(true);
}

double Loop::kept_s() const {
  if (options_.confirm_launches == 0) {
    return 0;
  }
  double least = 2.0 * std::max(kLeastPairs, options_.confirm_launches) * pace_.speed_trial_s(true);
  return reserve_s(final_s(), confirmation_s(), least, limit_s());
}

base::Result<bool> Loop::run_finals(LoopResult& result) {
  double least = 2.0 * std::max(kLeastPairs, options_.confirm_launches);
  while (sigma() > 0) {
    const Ranked* usual = ranking_.find(default_key_);
    const Ranked* next = ranking_.next_final(sigma(), default_key_, kFinalWaves);
    if (next == nullptr) {
      return true;
    }
    // Comparing starts only where somebody looks better than the default.
    const Ranked* leader = ranking_.leader(sigma(), default_key_);
    if (leader == nullptr || leader == usual) {
      return true;
    }
    double one = pace_.speed_trial_s(true);
    if (out_of_time(one + (least + 1) * one)) {  // one to spare: times scatter
      return true;
    }
    if (!memory_is_back()) {
      result.end = EndReason::kMemory;
      result.reason = memory_reason();
      return true;
    }
    if (stopped()) {
      return false;
    }
    search::Proposal proposal{next->config, std::string(kFinalPhase),
                              fmt::format("final: trial {} launched again, {} of up to {}", next->trial_id,
                                          next->finals + 1, kFinalWaves.size())};
    TrialRequest request = request_for(std::move(proposal));
    observer_.trial_started(ended_, options_.max_trials, request);
    auto record = trial(request);
    if (!record) {
      return record.failure();
    }
  }
  return true;
}

base::Result<LoopResult> Loop::conclude(EndReason end, std::string reason) {
  LoopResult result{end, Verdict::kUnconfirmed, std::move(reason)};
  if (leader_id_ == 0) {
    result.verdict = Verdict::kNoFeasible;
    return finish(result, nullptr);
  }
  bool launches = options_.confirm_launches > 0;
  if (launches && result.end != EndReason::kMemory) {
    auto went_on = run_finals(result);
    if (!went_on) {
      return went_on.failure();
    }
    if (!*went_on) {
      return stop();
    }
  }
  const Ranked* leader = ranking_.leader(sigma(), default_key_);
  leader_id_ = leader == nullptr ? 0 : leader->trial_id;
  if (leader == nullptr) {
    result.verdict = Verdict::kNoFeasible;
    result.reason += "; none held its limits when launched again";
    return finish(result, nullptr);
  }
  if (leader->key == default_key_) {
    result.verdict = Verdict::kDefaultStands;
    return finish(result, nullptr);
  }
  if (ranking_.find(default_key_) == nullptr) {
    // Nothing to compare with: the default does not hold the limits at all, the winner does.
    return finish(result, nullptr);
  }
  if (!launches || result.end == EndReason::kMemory) {
    return finish(result, nullptr);
  }
  return confirm(result);
}

std::string Loop::decided_by(const Ranked& winner) const {
  // An earlier entry of the objective that differs (a context size) is decided by the configuration itself,
  // once the winner has shown again that it runs.
  const Ranked* usual = ranking_.find(default_key_);
  size_t entries = std::min(winner.objective.size(), usual->objective.size());
  for (size_t i = 0; i + 1 < entries; ++i) {
    double tolerance = search::kObjectiveTolerance * std::fabs(usual->objective[i]);
    if (winner.objective[i] > usual->objective[i] + tolerance) {
      return study_.objective.maximize[i].text();
    }
  }
  return "";
}

bool Loop::same_process(const search::Config& winner) const {
  if (runner_.in_place(default_config_, winner)) {
    return true;
  }
  // A runner that has not launched anything yet (a resumed study) does not know; the axes are known from the header.
  bool any = false;
  for (size_t i = 0; i < winner.size(); ++i) {
    if (search::equal(winner[i], default_config_[i])) {
      continue;
    }
    any = true;
    const auto& axes = options_.in_place;
    if (std::find(axes.begin(), axes.end(), study_.space.axes[i].name) == axes.end()) {
      return false;
    }
  }
  return any;
}

base::Result<bool> Loop::confirm_once(LoopResult& result, const ConfirmPlan& plan, bool default_turn,
                                      bool cold, double needed_s) {
  bool memory = memory_is_back();
  if (stopped()) {
    result = stop_result();
    return false;
  }
  if (!memory) {
    result.end = EndReason::kMemory;
    result.reason = memory_reason();
    return false;
  }
  if (out_of_time(needed_s)) {
    result.reason += "; no time was left for the whole confirmation";
    return false;
  }
  const Ranked* winner = ranking_.leader(sigma(), default_key_);
  const char* how = cold ? "launched afresh" : "in place";
  search::Proposal proposal;
  proposal.config = default_turn ? default_config_ : winner->config;
  proposal.phase = kConfirmPhase;
  proposal.rationale = default_turn
                           ? fmt::format("confirm: the default, {}", how)
                           : fmt::format("confirm: the winner (trial {}), {}", winner->trial_id, how);
  TrialRequest request = request_for(std::move(proposal));
  request.parent_id = winner->trial_id;
  request.cold = cold;
  request.confirm_planned = plan.planned;
  request.confirm_in_place = plan.blocks;
  observer_.trial_started(ended_, options_.max_trials, request);
  auto record = trial(request);
  if (!record) {
    return record.failure();
  }
  // A busy moment of the host is forgiven: learn() has counted it, and the same launch comes again.
  return record->status == Status::kInterrupted || !too_many_failures(series_[winner->trial_id]);
}

// How many, fixed before the first: by what is likely true of the effect that was seen, one standard error down. Time
// has no say in it: where it ends early, fewer are judged, and the verdict knows.
ConfirmPlan Loop::plan_confirmation(const Ranked& winner, const Series& series) const {
  const Ranked& usual = *ranking_.find(default_key_);
  ConfirmPlan plan;
  plan.decided = decided_by(winner);
  plan.few = options_.confirm_launches < kLeastPairs;
  plan.cold_s = pace_.speed_trial_s(true);
  plan.warm_s = pace_.speed_trial_s(false);
  plan.cold = study_.backend.kind != BackendKind::kUrl;  // whose process is not ours to start
  double left = limit_s() > 0 ? limit_s() - elapsed_s() : INFINITY;
  double blocks_s = 4 * kLeastBlocks * plan.warm_s + 2 * kColdLaunches * plan.cold_s;
  if (series.planned > 0) {
    plan.blocks = series.blocks;
  } else if (!series.in_place.empty() || !series.winner.empty() || !series.baseline.empty()) {
    plan.blocks = !series.in_place.empty();  // a journal from before the plan was recorded
  } else {
    // Where blocks do not fit into the time, cold pairs may.
    plan.blocks = !plan.few && same_process(winner.config) && left >= blocks_s;
  }
  plan.blocks |= !plan.cold;
  plan.least = plan.blocks && plan.decided.empty() ? kLeastBlocks : kLeastPairs;
  if (series.planned > 0) {
    plan.planned = series.planned;
  } else if (plan.few) {
    plan.planned = options_.confirm_launches;
  } else if (!plan.decided.empty()) {
    plan.planned = plan.blocks && plan.cold ? 1 : std::max(kLeastPairs, options_.confirm_launches);
  } else {
    int least = plan.blocks ? kLeastBlocks : options_.confirm_launches;
    double error = sigma() * std::sqrt(1.0 / winner.launches + 1.0 / usual.launches);
    double seen = winner.objective.back() > 0 && usual.objective.back() > 0
                      ? std::log(winner.objective.back() / usual.objective.back())
                      : 0;
    double effect = std::clamp(shrunk_effect(seen, error) - error, 1e-4, kPlannedEffect);
    double sd = std::max(sigma() > 0 ? noise_.cautious_se(repeats()) : 0, 1e-6);
    plan.planned =
        pairs_needed(effect, sd * (plan.blocks ? 1 : std::sqrt(2.0)), least, std::max(kMostPairs, least));
  }
  return plan;
}

base::Result<bool> Loop::run_blocks(LoopResult& result, const ConfirmPlan& plan, const Series& series) {
  while (true) {
    Blocks blocks = blocks_of(series.in_place);
    if (blocks.complete >= plan.planned) {
      return true;
    }
    if (blocks.restarts > kRestartsForgiven) {
      result.reason +=
          "; the running server had to be launched again too often for blocks within one process";
      return false;
    }
    double cold_s = plan.cold ? 2 * kColdLaunches * plan.cold_s : 0;
    double rest_s = (4 - blocks.step) * plan.warm_s;
    if (blocks.complete >= plan.least && out_of_time(rest_s + cold_s)) {
      return true;  // what is left is for the cold launches
    }
    // D W W D
    auto ran = confirm_once(result, plan, blocks.step == 0 || blocks.step == 3, false, rest_s);
    if (!ran || !*ran) {
      return ran;
    }
  }
}

base::Result<bool> Loop::run_cold(LoopResult& result, const ConfirmPlan& plan, const Series& series,
                                  size_t pairs) {
  while (series.winner.size() < pairs || series.baseline.size() < pairs) {
    // D W W D D W ...: neither arm always comes first.
    size_t step = series.winner.size() + series.baseline.size();
    bool default_turn = (step + 1) / 2 % 2 == 0;
    default_turn = series.winner.size() >= pairs || (default_turn && series.baseline.size() < pairs);
    auto ran = confirm_once(result, plan, default_turn, true, (step % 2 == 0 ? 2 : 1) * plan.cold_s);
    if (!ran || !*ran) {
      return ran;
    }
  }
  return true;
}

void Loop::judge_confirmation(LoopResult& result, const ConfirmPlan& plan, const Series& series,
                              Comparison& comparison) const {
  const Comparison cold = compare_pairs(series.winner, series.baseline);
  bool agree = true;
  bool enough = false;
  if (!plan.blocks || (!plan.decided.empty() && plan.cold)) {
    enough = cold.pairs >= kLeastPairs;
  } else {
    bool cold_wanted = plan.cold && shows_gain(comparison);
    enough = comparison.pairs >= plan.least && (!cold_wanted || cold.pairs >= kColdLaunches);
    Noise processes = between_;  // and what the cold launches themselves show
    for (double value : series.winner) {
      processes.add_launch(default_key_ + 1, value);
    }
    for (double value : series.baseline) {
      processes.add_launch(default_key_, value);
    }
    agree = !cold_wanted ||
            cold_agrees(comparison, cold, processes.relative_se(repeats()), processes.total_freedom());
  }
  if (!plan.blocks) {
    comparison = cold;
  }
  comparison.in_place = plan.blocks;
  comparison.planned = plan.planned;
  comparison.cold_pairs = cold.pairs;
  comparison.cold_ratio = cold.ratio;
  comparison.missed = series.missed;
  comparison.decided_by = plan.decided;
  if (!plan.cold) {
    result.reason += "; the server is not ours to launch, so only one running process was compared";
  }
  if (series.machine_lost) {
    result.reason += "; the machine went down during a confirmation launch";
  } else if (too_many_failures(series)) {
    result.reason += "; too many confirmation launches failed";
  } else if (series.broken || 3 * series.missed > series.winner_launches) {
    // Not the default either: it is better only where the limits do not matter.
    result.reason += fmt::format("; a limit did not hold in {} of {} fresh launches of the winner",
                                 series.missed, series.winner_launches);
  } else if (enough && !agree) {
    result.reason +=
        fmt::format("; in place the winner is at {:.3f} of the default, launched afresh at {:.3f}",
                    comparison.ratio, cold.ratio);
  } else if (enough && (shows_gain(comparison) || !plan.decided.empty())) {
    result.verdict = Verdict::kConfirmed;
  } else if (enough && comparison.pairs < plan.planned && comparison.high > kWorthwhile) {
    result.reason +=
        fmt::format("; {} of {} planned comparisons do not rule out a gain", comparison.pairs, plan.planned);
  } else if (enough) {
    result.verdict = Verdict::kDefaultStands;
  }
}

base::Result<LoopResult> Loop::confirm(LoopResult result) {
  const Ranked winner = *ranking_.leader(sigma(), default_key_);
  const Series& series = series_[winner.trial_id];
  const ConfirmPlan plan = plan_confirmation(winner, series);
  bool going = !too_many_failures(series);  // they are not forgotten on resume
  if (going && plan.blocks) {
    auto ran = run_blocks(result, plan, series);
    if (!ran) {
      return ran.failure();
    }
    going = *ran;
  }
  Comparison comparison = compare_logs(blocks_of(series.in_place).logs);
  // Blocks that show nothing need no cold launches to say so.
  if (going && plan.cold && (!plan.blocks || shows_gain(comparison) || !plan.decided.empty())) {
    size_t pairs = !plan.blocks           ? static_cast<size_t>(plan.planned)
                   : plan.decided.empty() ? kColdLaunches
                                          : kLeastPairs;
    auto ran = run_cold(result, plan, series, pairs);
    if (!ran) {
      return ran.failure();
    }
  }
  if (stopped()) {
    return stop();
  }
  judge_confirmation(result, plan, series, comparison);
  return finish(result, &comparison);
}

base::Result<LoopResult> Loop::finish(LoopResult result, const Comparison* comparison) {
  runner_.release();
  base::Json end = {{"type", "study_end"},
                    {"schema_version", kSchemaVersion},
                    {"study_id", study_id_},
                    {"ended", utc_now()},
                    {"finished", result.end == EndReason::kFinished},
                    {"reason", result.reason},
                    {"verdict", to_string(result.verdict)},
                    {"best_trial_id", leader_id_ > 0 ? base::Json(leader_id_) : base::Json(nullptr)},
                    {"noise", sigma()},
                    {"drift", drift_.factor},
                    {"lost_trial_id", lost_trial_ > 0 ? base::Json(lost_trial_) : base::Json(nullptr)},
                    {"confirmation", nullptr}};
  if (comparison != nullptr && comparison->pairs > 0) {
    end["confirmation"] = {{"pairs", comparison->pairs},
                           {"planned", comparison->planned},
                           {"in_place", comparison->in_place},
                           {"ratio", comparison->ratio},
                           {"missed", comparison->missed}};
    if (comparison->in_place && comparison->cold_pairs > 0) {
      end["confirmation"]["cold_pairs"] = comparison->cold_pairs;
      end["confirmation"]["cold_ratio"] = comparison->cold_ratio;
    }
    if (!comparison->decided_by.empty()) {
      end["confirmation"]["decided_by"] = comparison->decided_by;
    }
    if (comparison->pairs > 1) {
      end["confirmation"]["ratio_low"] = comparison->low;
      end["confirmation"]["ratio_high"] = comparison->high;
    }
  }
  if (auto written = journal_.append(end); !written) {
    return written.failure();
  }
  return result;
}

}  // namespace study
