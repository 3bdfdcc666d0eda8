// The end of a study: finals among those that cannot be told apart, then winner against default on fresh launches.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/study/interrupt.h"
#include "src/study/loop_state.h"

namespace study {
namespace {

constexpr int kFailuresForgiven = 2;  // launches of one confirmation that may fail

}  // namespace

double Loop::final_s() const {
  if (options_.confirm_launches == 0 || sigma() == 0) {
    return 0;
  }
  size_t contenders = ranking_.contenders(sigma(), default_key_, kFinalists).size();
  return static_cast<double>(contenders) * (kFinalLaunches - 1) * pace_.speed_trial_s(true);
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
    const Ranked* next = nullptr;
    for (const Ranked* each : ranking_.contenders(sigma(), default_key_, kFinalists)) {
      if (each->tries < kFinalLaunches && (next == nullptr || each->tries < next->tries)) {
        next = each;
      }
    }
    if (next == nullptr) {
      return true;
    }
    // Comparing starts only where somebody looks better than the default.
    const Ranked* leader = ranking_.leader(sigma(), default_key_);
    if (leader == nullptr || leader == usual) {
      return true;
    }
    double one = pace_.speed_trial_s(true);
    if (out_of_time(one + least * one)) {
      return true;
    }
    if (!memory_is_back()) {
      result.end = EndReason::kMemory;
      result.reason = memory_reason();
      return true;
    }
    if (interrupted()) {
      return false;
    }
    search::Proposal proposal{next->config, std::string(kFinalPhase),
                              fmt::format("final: trial {} launched again, {} of {}", next->trial_id,
                                          next->tries + 1, kFinalLaunches)};
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
      return stopped_by_user();
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

base::Result<bool> Loop::confirm_once(LoopResult& result, bool default_turn, bool cold, double needed_s,
                                      bool& failed) {
  bool memory = memory_is_back();
  if (interrupted()) {
    result = stopped_by_user();
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
  observer_.trial_started(ended_, options_.max_trials, request);
  auto record = trial(request);
  if (!record) {
    return record.failure();
  }
  failed = record->status != Status::kInterrupted &&
           (record->status != Status::kOk || record->judgement.objective.empty());
  return !failed;
}

base::Result<LoopResult> Loop::confirm(LoopResult result) {
  const Ranked winner = *ranking_.leader(sigma(), default_key_);
  const Ranked& usual = *ranking_.find(default_key_);
  Series& series = series_[winner.trial_id];
  const std::string decided = decided_by(winner);

  // How many, fixed before the first: by what is likely true of the effect that was seen, one standard error down.
  double error = sigma() * std::sqrt(1.0 / winner.launches + 1.0 / usual.launches);
  double seen = winner.objective.back() > 0 && usual.objective.back() > 0
                    ? std::log(winner.objective.back() / usual.objective.back())
                    : 0;
  double effect = std::max(shrunk_effect(seen, error) - error, 1e-4);
  bool few = options_.confirm_launches < kLeastPairs;
  double cold_s = pace_.speed_trial_s(true), warm_s = pace_.speed_trial_s(false);
  double left = limit_s() > 0 ? limit_s() - elapsed_s() : INFINITY;
  auto fitting = [](double seconds, double each) {
    return each > 0 ? static_cast<int>(std::min(seconds / each, 1e6)) : kMostPairs;
  };
  bool in_place = !few && series.winner.empty() && series.baseline.empty() && same_process(winner.config);
  in_place = in_place || !series.in_place.empty();
  double blocks_s = 4 * kLeastBlocks * warm_s + 2 * kColdLaunches * cold_s;
  if (in_place && series.in_place.empty() && left < blocks_s) {
    in_place = false;  // cold pairs may still fit
  }
  auto least = static_cast<size_t>(in_place ? kLeastBlocks : options_.confirm_launches);
  size_t wanted = least;
  if (decided.empty() && !few) {
    double sd =
        std::max(sigma() > 0 ? noise_.cautious_se(repeats()) : 0, 1e-6) * (in_place ? 1 : std::sqrt(2.0));
    int most = in_place ? fitting(left - 2 * kColdLaunches * cold_s, 4 * warm_s) : fitting(left, 2 * cold_s);
    most = std::clamp(most, static_cast<int>(least), std::max(kMostPairs, static_cast<int>(least)));
    wanted = static_cast<size_t>(pairs_needed(effect, sd, static_cast<int>(least), most));
  } else if (in_place) {
    wanted = decided.empty() ? kLeastBlocks : 1;
  }

  bool failed = false;
  bool going = true;
  int failures = 0;
  auto once = [&](bool default_turn, bool cold, double needed_s) -> base::Result<void> {
    auto ran = confirm_once(result, default_turn, cold, needed_s, failed);
    if (!ran) {
      return ran.failure();
    }
    going = *ran;
    if (failed && ++failures <= kFailuresForgiven) {  // a busy moment of the host; it is launched again
      failed = false;
      going = true;
    }
    return {};
  };
  while (going && in_place && series.in_place.size() < 4 * wanted) {
    size_t step = series.in_place.size() % 4;  // D W W D
    if (auto ran = once(step == 0 || step == 3, false, static_cast<double>(4 - step) * warm_s); !ran) {
      return ran.failure();
    }
  }
  Comparison comparison = compare_logs(block_log_ratios(series.in_place));
  // Blocks that show nothing need no cold launches to say so.
  bool cold_wanted = !in_place || comparison.low > 1 || !decided.empty();
  size_t cold_pairs = !cold_wanted ? 0 : in_place ? (decided.empty() ? kColdLaunches : kLeastPairs) : wanted;
  while (going && (series.winner.size() < cold_pairs || series.baseline.size() < cold_pairs)) {
    // D W W D D W ...: neither arm always comes first.
    size_t step = series.winner.size() + series.baseline.size();
    bool default_turn = (step + 1) / 2 % 2 == 0;
    default_turn =
        series.winner.size() >= cold_pairs || (default_turn && series.baseline.size() < cold_pairs);
    if (auto ran = once(default_turn, true, (step % 2 == 0 ? 2 : 1) * cold_s); !ran) {
      return ran.failure();
    }
  }
  if (result.end == EndReason::kInterrupted) {
    return result;
  }
  std::vector<double> cold_logs;
  for (size_t i = 0; i < std::min(series.winner.size(), series.baseline.size()); ++i) {
    if (series.winner[i] > 0 && series.baseline[i] > 0) {
      cold_logs.push_back(std::log(series.winner[i] / series.baseline[i]));
    }
  }
  Comparison cold = compare_logs(cold_logs);
  bool agree = !in_place || !cold_wanted || cold_agrees(comparison, cold_logs, sigma());
  if (!in_place) {
    comparison = cold;
  }
  comparison.in_place = in_place;
  comparison.planned = static_cast<int>(wanted);
  comparison.cold_pairs = cold.pairs;
  comparison.cold_ratio = cold.ratio;
  comparison.missed = series.missed;
  comparison.decided_by = decided;
  bool enough = in_place && decided.empty()
                    ? comparison.pairs >= kLeastBlocks && (!cold_wanted || cold.pairs >= kColdLaunches)
                    : cold.pairs >= kLeastPairs;
  if (failed) {
    result.reason += "; too many confirmation launches failed";
  } else if (2 * series.missed > series.winner_launches) {
    // Not the default either: it is better only where the limits do not matter.
    result.reason += fmt::format("; a limit did not hold in {} of {} fresh launches of the winner",
                                 series.missed, series.winner_launches);
  } else if (enough && !agree && decided.empty()) {
    result.reason +=
        fmt::format("; in place the winner is at {:.3f} of the default, launched afresh at {:.3f}",
                    comparison.ratio, cold.ratio);
  } else if (enough && (comparison.low > 1 || !decided.empty())) {
    result.verdict = Verdict::kConfirmed;
  } else if (enough) {
    result.verdict = Verdict::kDefaultStands;
  }
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
