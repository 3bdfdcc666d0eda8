#include "src/study/loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "src/base/check.h"
#include "src/base/log.h"
#include "src/base/stats.h"
#include "src/base/units.h"
#include "src/os/proc.h"
#include "src/study/interrupt.h"
#include "src/study/plan.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;

// What the fresh launches of one configuration came to.
struct FreshLaunches {
  std::vector<double> values;  // last objective entry
  int missed = 0;              // launches in which a limit did not hold
  void add(const Judgement& judgement) {
    values.push_back(judgement.objective.back());
    missed += judgement.feasible ? 0 : 1;
  }
};

struct Candidate {
  search::Config config;
  search::Outcome outcome;
  int trial_id = 0;
};

class Loop {
 public:
  Loop(const Study& study, Journal& journal, TrialRunner& runner, LoopObserver& observer,
       const LoopOptions& options, std::string study_id, std::string boot_id)
      : study_(study),
        journal_(journal),
        runner_(runner),
        observer_(observer),
        options_(options),
        study_id_(std::move(study_id)),
        boot_id_(std::move(boot_id)),
        start_(Clock::now()) {
    const search::StrategyInfo* info = search::find_strategy(study.search.strategy);
    AR_CHECK(info != nullptr, "the space file's strategy is checked when it is read");
    search::Limits limits;
    limits.max_trials = options.max_trials;
    limits.expected_trials = expected_trials(study);
    strategy_ = info->make(study.space, study.search.seed, limits);
    default_config_ = study.space.canonical(study.space.default_config());
  }

  base::Result<void> replay(const JournalContent& past);
  base::Result<LoopResult> run();

 private:
  double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool out_of_time(double needed_s) const;
  // Waits for the floor; false when it was not reached in time. True, too, when the user stops: ask next.
  bool memory_is_back() const;
  std::string memory_reason() const;
  double typical_trial_s() const { return trial_s_.empty() ? 0 : base::median(trial_s_); }
  double confirmation_s() const;

  TrialRequest request_for(search::Proposal proposal);
  // The record of one trial, journalled and learnt from.
  base::Result<TrialRecord> trial(const TrialRequest& request);
  void learn(const TrialRequest& request, const TrialRecord& record);
  // Takes a trial among those that may win; whether it is the best now.
  bool rank(Candidate candidate);
  const TrialMetrics* default_metrics() const;
  TrialMetrics with_known_answers(TrialMetrics metrics) const;
  base::Result<LoopResult> conclude(EndReason end, std::string reason);
  base::Result<LoopResult> confirm(LoopResult result);
  base::Result<LoopResult> finish(LoopResult result, const Comparison* comparison);

  const Study& study_;
  Journal& journal_;
  TrialRunner& runner_;
  LoopObserver& observer_;
  const LoopOptions& options_;
  std::string study_id_, boot_id_;
  Clock::time_point start_;
  std::unique_ptr<search::Strategy> strategy_;
  search::Config default_config_;
  search::Outcome default_outcome_;

  std::vector<TrialMetrics> finished_;  // trials that ran to their end, confirmation left out
  std::vector<double> trial_s_;
  std::map<std::string, int> last_attempt_;         // by params_hash
  std::map<std::string, int> interrupted_id_;       // trial_id to take up again
  std::map<std::string, FreshLaunches> confirmed_;  // by params_hash
  int last_id_ = 0, ended_ = 0;
  std::vector<Candidate> feasible_;
  Candidate best_;
  bool have_best_ = false;
};

const TrialMetrics* Loop::default_metrics() const {
  for (const TrialMetrics& trial : finished_) {
    if (trial.config == default_config_) {
      return &trial;
    }
  }
  return nullptr;
}

// A confirmation launch measures speed; what depends on the configuration alone is cited from its first
// trial.
TrialMetrics Loop::with_known_answers(TrialMetrics metrics) const {
  for (const TrialMetrics& trial : finished_) {
    if (trial.config == metrics.config) {
      metrics.values.insert(trial.values.begin(), trial.values.end());  // keeps what was measured now
      metrics.quality_items.insert(trial.quality_items.begin(), trial.quality_items.end());
      break;
    }
  }
  return metrics;
}

base::Result<void> Loop::replay(const JournalContent& past) {
  last_id_ = past.last_trial_id();
  for (const base::Json* start : past.of_type("trial_start")) {
    int& last = last_attempt_[base::json_get<std::string>(*start, "params_hash", "")];
    last = std::max(last, base::json_get<int>(*start, "attempt", 0));
  }
  std::vector<base::Json> ends;
  for (const base::Json* end : past.of_type("trial_end")) {
    ends.push_back(*end);
  }
  for (const base::Json* start : past.interrupted()) {
    std::string hash = base::json_get<std::string>(*start, "params_hash", "");
    if (base::json_get<int>(*start, "attempt", 0) < last_attempt_[hash]) {
      continue;  // taken up again already
    }
    bool rebooted = base::json_get<std::string>(*start, "boot_id", "") != boot_id_;
    if (!rebooted) {
      interrupted_id_[hash] = base::json_get<int>(*start, "trial_id", 0);
      continue;
    }
    base::Json end = host_crash_end(*start);
    observer_.note(
        fmt::format("trial {}: the machine went down while it ran; it counts as out of memory and is "
                    "not run again",
                    base::json_get<int>(*start, "trial_id", 0)));
    if (auto written = journal_.append(end); !written) {
      return written.failure();
    }
    ends.push_back(std::move(end));
  }
  int strangers = 0;
  for (const base::Json& end : ends) {
    auto config = search::from_json(study_.space, end.value("params", base::Json::object()));
    if (!config) {
      return base::error(
          fmt::format("{}: trial {}", journal_.path(), base::json_get<int>(end, "trial_id", 0)),
          config.failure().to_string(), "the journal does not fit its own space; start a new study");
    }
    Judgement judgement = judgement_of(end);
    std::string hash = base::json_get<std::string>(end, "params_hash", "");
    auto metrics = metrics_of(study_.space, end);
    if (base::json_get<std::string>(end, "phase", "") == kConfirmPhase) {
      if (metrics && !judgement.objective.empty()) {
        confirmed_[hash].add(judgement);
      }
      continue;
    }
    // Asking first keeps the strategy's random numbers where they were.
    auto proposal = strategy_->ask();
    strangers += !proposal || proposal->config != *config ? 1 : 0;
    search::Outcome outcome = outcome_of_end(study_, end);
    strategy_->tell(*config, outcome);
    ++ended_;
    trial_s_.push_back(base::json_get<double>(end, "t_total_s", 0));
    if (metrics) {
      finished_.push_back(std::move(*metrics));
    }
    if (*config == default_config_) {
      default_outcome_ = outcome;
    }
    rank({*config, outcome, base::json_get<int>(end, "trial_id", 0)});
  }
  if (strangers > 0) {
    observer_.note(
        fmt::format("{} recorded trials are not what this version's {} would have asked for; they are "
                    "learnt from all the same",
                    strangers, study_.search.strategy));
  }
  return {};
}

bool Loop::out_of_time(double needed_s) const {
  double limit = options_.budget_s > 0 ? options_.budget_s : options_.deadline_s;
  if (options_.budget_s > 0 && options_.deadline_s > 0) {
    limit = std::min(options_.budget_s, options_.deadline_s);
  }
  return limit > 0 && elapsed_s() + needed_s > limit;
}

// Confirmation launches measure speed only; a quarter of the limit at most is kept for them.
double Loop::confirmation_s() const {
  double limit = options_.budget_s > 0 ? options_.budget_s : options_.deadline_s;
  return std::min(2.0 * options_.confirm_launches * typical_trial_s(), limit / 4);
}

bool Loop::memory_is_back() const {
  auto start = Clock::now();
  while (options_.min_headroom_bytes > 0 && os::read_meminfo().available < options_.min_headroom_bytes) {
    if (interrupted() ||
        std::chrono::duration<double>(Clock::now() - start).count() > options_.memory_wait_s) {
      return interrupted();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  return true;
}

std::string Loop::memory_reason() const {
  return fmt::format("available memory stayed below the floor of {} for {:.0f} s without a candidate running",
                     base::format_bytes(options_.min_headroom_bytes), options_.memory_wait_s);
}

TrialRequest Loop::request_for(search::Proposal proposal) {
  TrialRequest request;
  request.params_hash = params_hash(search::to_json(study_.space, proposal.config));
  request.proposal = std::move(proposal);
  request.proposer = study_.search.strategy;
  request.attempt = ++last_attempt_[request.params_hash];
  auto taken_up = interrupted_id_.find(request.params_hash);
  if (taken_up != interrupted_id_.end()) {
    request.trial_id = taken_up->second;
    interrupted_id_.erase(taken_up);
  } else {
    request.trial_id = ++last_id_;
  }
  return request;
}

base::Result<TrialRecord> Loop::trial(const TrialRequest& request) {
  auto plan = runner_.plan(request);
  std::vector<std::string> argv = plan ? redacted(plan->argv) : std::vector<std::string>();
  auto started = journal_.append(trial_start(study_id_, study_.space, request, argv, boot_id_));
  if (!started) {
    return started.failure();
  }
  TrialRecord record;
  if (plan) {
    record = runner_.run(request, *plan, {});
  } else {
    record.status = Status::kLoadCrash;
    record.reason = "could not be launched: " + plan.failure().to_string();
  }
  if (record.status == Status::kInterrupted) {
    return record;  // no end: it runs again
  }
  if (record.status == Status::kOk) {
    record.judgement = judge(study_, with_known_answers(record.metrics), default_metrics(), finished_);
  }
  auto ended = journal_.append(trial_end(study_id_, study_.space, request, record));
  if (!ended) {
    return ended.failure();
  }
  return record;
}

bool Loop::rank(Candidate candidate) {
  if (!candidate.outcome.feasible) {
    return false;
  }
  int trial_id = candidate.trial_id;
  feasible_.push_back(std::move(candidate));
  std::vector<const search::Outcome*> outcomes;
  for (const Candidate& each : feasible_) {
    outcomes.push_back(&each.outcome);
  }
  best_ = feasible_[*search::best_of(outcomes, search::kObjectiveTolerance)];
  have_best_ = true;
  return best_.trial_id == trial_id;
}

void Loop::learn(const TrialRequest& request, const TrialRecord& record) {
  search::Outcome outcome;
  if (record.status == Status::kOk) {
    outcome = outcome_of(study_, record.judgement, record.metrics);
    finished_.push_back(record.metrics);
  }
  outcome.out_of_memory = outcome.out_of_memory || means_out_of_memory(record.status);
  strategy_->tell(request.proposal.config, outcome);
  ++ended_;
  trial_s_.push_back(record.t_total_s);
  if (request.proposal.config == default_config_) {
    default_outcome_ = outcome;
  }
  bool new_best = rank({request.proposal.config, outcome, request.trial_id});
  observer_.trial_ended(request, record, new_best);
}

base::Result<LoopResult> Loop::run() {
  while (true) {
    if (interrupted()) {
      return LoopResult{EndReason::kInterrupted, Verdict::kUnconfirmed, "stopped by the user"};
    }
    if (ended_ >= options_.max_trials) {
      return conclude(EndReason::kFinished, fmt::format("{} trials were run", ended_));
    }
    if (out_of_time(typical_trial_s() + (have_best_ ? confirmation_s() : 0))) {
      return conclude(EndReason::kBudget, "the time is used up");
    }
    if (!memory_is_back()) {
      return conclude(EndReason::kMemory, memory_reason());
    }
    if (interrupted()) {
      continue;
    }
    auto proposal = strategy_->ask();
    if (!proposal) {
      return conclude(EndReason::kFinished,
                      "the search has stopped: no step from the best point has gained anything");
    }
    TrialRequest request = request_for(std::move(*proposal));
    observer_.trial_started(ended_ + 1, options_.max_trials, request);
    auto record = trial(request);
    if (!record) {
      return record.failure();
    }
    if (record->status != Status::kInterrupted) {
      learn(request, *record);
    }
  }
}

base::Result<LoopResult> Loop::conclude(EndReason end, std::string reason) {
  LoopResult result{end, Verdict::kUnconfirmed, std::move(reason)};
  if (!have_best_) {
    result.verdict = Verdict::kNoFeasible;
    return finish(result, nullptr);
  }
  if (best_.config == default_config_) {
    result.verdict = Verdict::kDefaultStands;
    return finish(result, nullptr);
  }
  if (!default_outcome_.feasible) {
    // Nothing to compare with: the default does not hold the limits at all, the winner does.
    return finish(result, nullptr);
  }
  if (options_.confirm_launches == 0 || end == EndReason::kMemory) {
    return finish(result, nullptr);
  }
  return confirm(result);
}

base::Result<LoopResult> Loop::confirm(LoopResult result) {
  auto hash_of = [&](const search::Config& config) {
    return params_hash(search::to_json(study_.space, config));
  };
  FreshLaunches& winner = confirmed_[hash_of(best_.config)];
  FreshLaunches& baseline = confirmed_[hash_of(default_config_)];
  auto wanted = static_cast<size_t>(options_.confirm_launches);
  bool failed = false;
  for (int step = 0; !failed && (winner.values.size() < wanted || baseline.values.size() < wanted); ++step) {
    bool hard_limit = result.end == EndReason::kBudget || options_.budget_s > 0 || options_.deadline_s > 0;
    bool memory = memory_is_back();
    if (interrupted()) {
      return LoopResult{EndReason::kInterrupted, Verdict::kUnconfirmed, "stopped by the user"};
    }
    if (!memory) {
      result.end = EndReason::kMemory;
      result.reason = memory_reason();
      break;
    }
    if (hard_limit && out_of_time(0)) {
      break;
    }
    // D W W D D W ...: neither arm always comes first.
    bool default_turn = (step + 1) / 2 % 2 == 0;
    default_turn = winner.values.size() >= wanted || (default_turn && baseline.values.size() < wanted);
    search::Proposal proposal;
    proposal.config = default_turn ? default_config_ : best_.config;
    proposal.phase = kConfirmPhase;
    proposal.rationale = default_turn
                             ? "confirm: the default, launched afresh"
                             : fmt::format("confirm: the winner (trial {}), launched afresh", best_.trial_id);
    TrialRequest request = request_for(std::move(proposal));
    observer_.trial_started(ended_, options_.max_trials, request);
    auto record = trial(request);
    if (!record) {
      return record.failure();
    }
    if (record->status == Status::kInterrupted) {
      continue;
    }
    observer_.trial_ended(request, *record, false);
    failed = record->status != Status::kOk || record->judgement.objective.empty();
    if (!failed) {
      (default_turn ? baseline : winner).add(record->judgement);
    }
  }
  Comparison comparison = compare_pairs(winner.values, baseline.values);
  comparison.missed = winner.missed;
  const auto& best = best_.outcome.objective;
  const auto& first = default_outcome_.objective;
  // An earlier entry of the objective that differs (a context size) is decided by the configuration itself,
  // once the winner has shown again that it runs.
  for (size_t i = 0; i + 1 < std::min(best.size(), first.size()) && comparison.decided_by.empty(); ++i) {
    if (best[i] > first[i] * (1 + search::kObjectiveTolerance)) {
      comparison.decided_by = study_.objective.maximize[i].text();
    }
  }
  if (failed) {
    result.reason += "; a confirmation launch failed";
  } else if (2 * winner.missed > static_cast<int>(winner.values.size())) {
    // Not the default either: it is better only where the limits do not matter.
    result.reason += fmt::format("; a limit did not hold in {} of {} fresh launches of the winner",
                                 winner.missed, winner.values.size());
  } else if (comparison.pairs >= 3 && (comparison.low > 1 || !comparison.decided_by.empty())) {
    result.verdict = Verdict::kConfirmed;
  } else if (comparison.pairs >= 3) {
    result.verdict = Verdict::kDefaultStands;
  }
  return finish(result, &comparison);
}

base::Result<LoopResult> Loop::finish(LoopResult result, const Comparison* comparison) {
  base::Json end = {{"type", "study_end"},
                    {"schema_version", kSchemaVersion},
                    {"study_id", study_id_},
                    {"ended", utc_now()},
                    {"finished", result.end == EndReason::kFinished},
                    {"reason", result.reason},
                    {"verdict", to_string(result.verdict)},
                    {"best_trial_id", have_best_ ? base::Json(best_.trial_id) : base::Json(nullptr)},
                    {"confirmation", nullptr}};
  if (comparison != nullptr && comparison->pairs > 0) {
    end["confirmation"] = {
        {"pairs", comparison->pairs}, {"ratio", comparison->ratio}, {"missed", comparison->missed}};
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

}  // namespace

base::Result<LoopResult> run_loop(const Study& study, const JournalContent& past, Journal& journal,
                                  TrialRunner& runner, LoopObserver& observer, const LoopOptions& options,
                                  const std::string& boot_id) {
  Loop loop(study, journal, runner, observer, options,
            base::json_get<std::string>(past.header, "study_id", ""), boot_id);
  if (auto replayed = loop.replay(past); !replayed) {
    return replayed.failure();
  }
  return loop.run();
}

}  // namespace study
