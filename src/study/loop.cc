#include "src/study/loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "src/base/check.h"
#include "src/base/units.h"
#include "src/os/proc.h"
#include "src/study/interrupt.h"
#include "src/study/loop_state.h"
#include "src/study/plan.h"
#include "src/study/racing.h"

namespace study {
namespace {

double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t known_count(const base::Json& header) {
  const base::Json warm = header.is_object() ? header.value("warm_start", base::Json()) : base::Json();
  return warm.is_object() ? warm.value("known", base::Json::array()).size() : 0;
}

}  // namespace

Loop::Loop(const Study& study, Journal& journal, TrialRunner& runner, LoopObserver& observer,
           const LoopOptions& options, const base::Json& header, std::string boot_id)
    : study_(study),
      journal_(journal),
      runner_(runner),
      observer_(observer),
      options_(options),
      study_id_(base::json_get<std::string>(header, "study_id", "")),
      boot_id_(std::move(boot_id)),
      now_s_(options.now_s ? options.now_s : std::function<double()>(steady_s)),
      start_s_(now_s_()) {
  const search::StrategyInfo* info = search::find_strategy(study.search.strategy);
  AR_CHECK(info != nullptr, "the space file's strategy is checked when it is read");
  search::Limits limits;
  limits.max_trials = options.max_trials;
  limits.expected_trials = expected_trials(study);
  if (options.anchor_every > 0) {
    // Anchors take their share: the plan must fit what is left.
    int room =
        limits.expected_trials > 0 ? std::min(limits.expected_trials, limits.max_trials) : limits.max_trials;
    limits.expected_trials = std::max(1, room - room / (options.anchor_every + 1));
  }
  if (size_t known = known_count(header); known > 0) {
    // What is known counts as launched; the plan must fit what this study launches.
    limits.expected_trials =
        limits.expected_trials > 0 ? std::min(limits.expected_trials, limits.max_trials) : limits.max_trials;
    limits.max_trials += static_cast<int>(known);
  }
  limits.in_place = options.in_place;
  limits.pareto = study.objective.pareto;
  strategy_ = with_plugin(info->make(study.space, study.search.seed, limits));
  default_config_ = study.space.canonical(study.space.default_config());
  default_key_ = key_of(default_config_);
}

double Loop::elapsed_s() const {
  return now_s_() - start_s_;
}

double Loop::limit_s() const {
  if (options_.budget_s > 0 && options_.deadline_s > 0) {
    return std::min(options_.budget_s, options_.deadline_s);
  }
  return options_.budget_s > 0 ? options_.budget_s : options_.deadline_s;
}

bool Loop::memory_is_back() {
  auto below = [&] { return os::read_meminfo().available < options_.min_headroom_bytes; };
  if (options_.min_headroom_bytes == 0 || !below()) {
    return true;
  }
  runner_.release();  // a server kept for the next trial is what may hold it
  double start = now_s_();
  while (below()) {
    if (interrupted() || now_s_() - start > options_.memory_wait_s) {
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

uint64_t Loop::key_of(const search::Config& config) const {
  return std::stoull(params_hash(search::to_json(study_.space, config)), nullptr, 16);
}

bool Loop::speed_decides() const {
  return !study_.objective.maximize.empty() && depends_on_speed(study_.objective.maximize.back());
}

double Loop::sigma() const {
  return speed_decides() ? noise_.relative_se(repeats()) : 0;
}

bool Loop::stopped() const {
  return interrupted() || !server_lost_.empty();
}

LoopResult Loop::stop_result() {
  runner_.release();
  if (interrupted() || server_lost_.empty()) {
    return LoopResult{EndReason::kInterrupted, Verdict::kUnconfirmed, "stopped by the user"};
  }
  return LoopResult{EndReason::kServerLost, leader_id_ > 0 ? Verdict::kUnconfirmed : Verdict::kNoFeasible,
                    server_lost_};
}

base::Result<LoopResult> Loop::stop() {
  LoopResult result = stop_result();
  return result.end == EndReason::kServerLost ? finish(result, nullptr) : base::Result<LoopResult>(result);
}

bool Loop::lose_server(const TrialRequest& request, TrialRecord& record) {
  if (record.server_lost.empty()) {
    return false;
  }
  server_lost_ = record.server_lost;
  lost_trial_ = record.lost_in_trial ? request.trial_id : 0;
  // The same trial a second time: it is what ends the server, and must not end every resume.
  if (record.lost_in_trial && lost_before_.contains(request.trial_id)) {
    return false;
  }
  record.status = Status::kInterrupted;
  return true;
}

TrialRequest Loop::request_for(search::Proposal proposal) {
  TrialRequest request;
  request.params_hash = params_hash(search::to_json(study_.space, proposal.config));
  request.speed_only = is_repeated(proposal.phase);
  request.proposal = std::move(proposal);
  bool plugin = study_.search.plugin && request.proposal.phase == "plugin";
  request.proposer = plugin ? study_.search.plugin->name : study_.search.strategy;
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

bool Loop::must_lead(const std::string& phase) const {
  // A sweep's effect is wanted even where it loses, and a model by itself learns from losers as well. Two-phase asks its
  // model once steps have ended, for what may still win.
  const bool last_stage = phase == "model" && study_.search.strategy == "two-phase";
  return (phase == "perturb" || last_stage) && !study_.objective.pareto;
}

std::optional<Failure> Loop::gate(const TrialRequest& request, const TrialMetrics& so_far) const {
  const std::string& phase = request.proposal.phase;
  if (phase == "default" || request.proposal.config == default_config_ || is_repeated(phase)) {
    return std::nullopt;
  }
  TrialMetrics level = slowed(so_far, drift_.factor);
  // What it is compared with ran in other processes, or may have.
  double error = std::max(noise_.relative_se(repeats()), between_.relative_se(repeats()));
  if (auto broken = broken_limit(study_, level, default_metrics(), references_, error)) {
    return broken;
  }
  const Ranked* leader = must_lead(phase) ? ranking_.leader(sigma(), default_key_) : nullptr;
  return leader == nullptr
             ? std::nullopt
             : cannot_win(study_, level, default_metrics(), leader->objective, leader->launches, error);
}

void Loop::judge_record(const TrialRequest& request, TrialRecord& record) const {
  record.drift = drift_.factor;
  record.censored = record.censored || ended_early(record.status);
  record.noise = sigma();
  if (record.status != Status::kOk) {
    return;
  }
  TrialMetrics whole = slowed(record.metrics, drift_.factor);
  if (request.speed_only) {
    whole = answers_.complete(std::stoull(request.params_hash, nullptr, 16), std::move(whole));
  }
  record.judgement = judge(study_, whole, default_metrics(), references_);
}

TrialRecord Loop::skipped(const TrialRequest& request, std::string why) const {
  TrialRecord record;
  record.status = Status::kSkippedPredicted;
  record.reason = std::move(why);
  record.cold = request.cold;
  return record;
}

base::Result<TrialRecord> Loop::trial(const TrialRequest& request) {
  std::string cannot = request.proposal.doomed;
  if (cannot.empty() && options_.cannot_fit && !request.speed_only) {
    cannot = options_.cannot_fit(request.proposal.config);
  }
  base::Result<LaunchPlan> plan = cannot.empty() ? runner_.plan(request) : LaunchPlan();
  std::vector<std::string> argv = plan ? redacted(plan->argv) : std::vector<std::string>();
  auto started = journal_.append(trial_start(study_id_, study_.space, request, argv, boot_id_));
  if (!started) {
    return started.failure();
  }
  TrialRecord record;
  if (!cannot.empty()) {
    record = skipped(request, std::move(cannot));
  } else if (plan) {
    TrialContext context;
    context.known = &numerics_;
    context.losses = default_losses_ ? &*default_losses_ : nullptr;
    context.no_losses = no_losses_;
    context.losses_given = losses_given_;
    context.gate = [&](const TrialMetrics& so_far) { return gate(request, so_far); };
    record = runner_.run(request, *plan, context);
  } else {
    record.status = Status::kLoadCrash;
    record.reason = "could not be launched: " + plan.failure().to_string();
  }
  if (lose_server(request, record) || record.status == Status::kInterrupted) {
    return record;  // no end: it runs again
  }
  judge_record(request, record);
  auto ended = journal_.append(trial_end(study_id_, study_.space, request, record));
  if (!ended) {
    return ended.failure();
  }
  EndedTrial learnt;
  learnt.phase = request.proposal.phase;
  learnt.config = request.proposal.config;
  learnt.key = std::stoull(request.params_hash, nullptr, 16);
  learnt.trial_id = request.trial_id;
  learnt.parent_id = request.parent_id;
  learnt.cold_required = request.cold;
  learnt.confirm_planned = request.confirm_planned;
  learnt.confirm_in_place = request.confirm_in_place;
  learnt.status = record.status;
  learnt.judgement = record.judgement;
  learnt.drift = record.drift;
  learnt.times = {record.cold, request.speed_only,
                  record.cold ? record.t_load_s.value_or(0) : record.t_reconfigure_s.value_or(0),
                  record.t_measure_s.value_or(0), record.t_total_s};
  learnt.numerics_key = record.numerics_key;
  learnt.cited = record.cited_trial_id > 0;
  learnt.quality = &record.quality;
  learnt.needle = &record.needle;
  learnt.perplexity = &record.perplexity;
  if (record.status == Status::kOk || ended_early(record.status)) {
    learnt.metrics = record.metrics;
    learnt.metrics->config = request.proposal.config;
    learnt.outcome = outcome_of(study_, record.judgement, *learnt.metrics);
    learnt.outcome.noise = record.noise;
  } else {
    learnt.outcome.out_of_memory = means_out_of_memory(record.status);
    learnt.outcome.predicted = record.status == Status::kSkippedPredicted;
  }
  bool leads = learn(learnt);
  observer_.trial_ended(request, record, leads);
  return record;
}

std::optional<search::Proposal> Loop::next_repeat() const {
  // Round by round: launches of one configuration lie apart, so that their scatter is the machine's, drift included.
  for (int round = 2; round <= study_.search.repeats; ++round) {
    for (const Repeated& ran : ran_) {
      if (ran.tries < round) {
        return search::Proposal{ran.config, std::string(kRepeatPhase),
                                fmt::format("launch {} of {}", round, study_.search.repeats)};
      }
    }
  }
  return std::nullopt;
}

base::Result<bool> Loop::next_trial() {
  std::optional<search::Proposal> proposal;
  const bool anchor_due = options_.anchor_every > 0 && default_ok_ && since_anchor_ >= options_.anchor_every;
  auto anchor = [&] {
    return search::Proposal{default_config_, std::string(kAnchorPhase),
                            "the default again, to see noise and drift"};
  };
  if (ended_ >= options_.max_trials) {
    proposal = next_repeat();
    if (proposal && anchor_due) {
      proposal = anchor();
    }
  } else if (unfinished_) {
    proposal = std::exchange(unfinished_, std::nullopt);
  } else if (anchor_due) {
    proposal = anchor();
  } else if (auto check = next_check()) {
    proposal = std::move(check);
  } else {
    proposal = strategy_->ask();
    if (plugin_unwritten_) {
      return *plugin_unwritten_;
    }
    if (stopped()) {  // while the plugin thought
      return true;
    }
    if (!proposal) {
      proposal = next_repeat();
    }
  }
  if (!proposal) {
    return false;
  }
  TrialRequest request = request_for(std::move(*proposal));
  observer_.trial_started(ended_ + 1, options_.max_trials, request);
  auto record = trial(request);
  if (!record) {
    return record.failure();
  }
  return true;
}

base::Result<LoopResult> Loop::run() {
  while (true) {
    if (stopped()) {
      return stop();
    }
    if (ended_ >= options_.max_trials && !next_repeat()) {
      return conclude(EndReason::kFinished, fmt::format("{} trials were run", ended_));
    }
    if (out_of_time(pace_.search_trial_s() + (leader_id_ > 0 ? kept_s() : 0))) {
      return conclude(EndReason::kBudget, "the time is used up");
    }
    if (!memory_is_back()) {
      return conclude(EndReason::kMemory, memory_reason());
    }
    if (interrupted()) {
      continue;
    }
    auto ran = next_trial();
    if (!ran) {
      return ran.failure();
    }
    if (!*ran) {
      return conclude(EndReason::kFinished,
                      "the search has stopped: nothing that is left to try promises a gain");
    }
  }
}

base::Result<LoopResult> run_loop(const Study& study, const JournalContent& past, Journal& journal,
                                  TrialRunner& runner, LoopObserver& observer, const LoopOptions& options,
                                  const std::string& boot_id) {
  Loop loop(study, journal, runner, observer, options, past.header, boot_id);
  if (auto replayed = loop.replay(past); !replayed) {
    runner.release();
    return replayed.failure();
  }
  loop.connect_plugin(past.header);
  auto result = loop.run();
  runner.release();
  return result;
}

}  // namespace study
