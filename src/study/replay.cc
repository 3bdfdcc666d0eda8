// Resume: everything the journal holds is learnt again in its order, as if it had just happened.

#include <fmt/format.h>

#include <algorithm>

#include "src/study/loop_state.h"

namespace study {
namespace {

// Records of today say what they are; what is missing in an older one keeps its default.
EndedTrial ended_of(const Study& study, const base::Json& end, search::Config config) {
  EndedTrial trial;
  trial.phase = base::json_get<std::string>(end, "phase", "");
  trial.config = std::move(config);
  trial.trial_id = base::json_get<int>(end, "trial_id", 0);
  trial.parent_id = base::json_get<int>(end, "parent_id", 0);
  trial.cold_required = base::json_get<bool>(end, "cold_required", false);
  if (auto plan = end.find("confirm"); plan != end.end() && plan->is_object()) {
    trial.confirm_planned = base::json_get<int>(*plan, "planned", 0);
    trial.confirm_in_place = base::json_get<bool>(*plan, "in_place", false);
  }
  trial.status = parse_status(base::json_get<std::string>(end, "status", "")).value_or(Status::kRunCrash);
  trial.metrics = metrics_of(study.space, end);
  trial.judgement = judgement_of(end);
  trial.outcome = outcome_of_end(study, end);
  trial.drift = base::json_get<double>(end, "drift", 1);
  trial.drift = trial.drift > 0 ? trial.drift : 1;
  trial.times.cold = base::json_get<bool>(end, "cold", true);
  trial.times.speed_only = is_repeated(trial.phase);
  trial.times.load_s = base::json_get<double>(end, trial.times.cold ? "t_load_s" : "t_reconfigure_s", 0);
  trial.times.measure_s = base::json_get<double>(end, "t_measure_s", 0);
  trial.times.total_s = base::json_get<double>(end, "t_total_s", 0);
  trial.numerics_key = base::json_get<std::string>(end, "numerics_key", "");
  trial.cited = base::json_get<int>(end, "cited_trial_id", 0) > 0;
  auto part = [&](const char* name) {
    auto found = end.find(name);
    return found != end.end() ? &*found : nullptr;
  };
  trial.quality = part("quality");
  trial.needle = part("needle");
  trial.perplexity = part("perplexity");
  return trial;
}

}  // namespace

base::Result<void> Loop::replay_end(const base::Json& end, int& strangers) {
  auto config = search::from_json(study_.space, end.value("params", base::Json::object()));
  if (!config) {
    return base::error(fmt::format("{}: trial {}", journal_.path(), base::json_get<int>(end, "trial_id", 0)),
                       config.failure().to_string(),
                       "the journal does not fit its own space; start a new study");
  }
  EndedTrial trial = ended_of(study_, end, std::move(*config));
  trial.key = key_of(trial.config);
  if (!trial.times.speed_only && trial.phase != kCheckPhase) {
    // Asking first keeps the strategy's random numbers where they were.
    auto proposal = strategy_->ask();
    strangers += !proposal || proposal->config != trial.config ? 1 : 0;
  }
  learn(trial);
  return {};
}

std::optional<search::Proposal> Loop::take_up(const base::Json& start) {
  auto config = search::from_json(study_.space, start.value("params", base::Json::object()));
  if (!config) {
    return std::nullopt;  // of another space: there are ends that say so
  }
  // A plugin is not connected yet: this gives what its exchanges left, else the strategy's own.
  auto proposal = strategy_->ask();
  if (!proposal || proposal->config != *config) {
    proposal = search::Proposal{*config, base::json_get<std::string>(start, "phase", ""),
                                base::json_get<std::string>(start, "rationale", "")};
  }
  proposal->fallback = base::json_get<std::string>(start, "fallback", "");
  return proposal;
}

base::Result<void> Loop::replay(const JournalContent& past) {
  if (auto known = read_known(past.header); !known) {
    return known.failure();
  }
  last_id_ = past.last_trial_id();
  for (const base::Json* start : past.of_type("trial_start")) {
    int& last = last_attempt_[base::json_get<std::string>(*start, "params_hash", "")];
    last = std::max(last, base::json_get<int>(*start, "attempt", 0));
  }
  for (const base::Json* end : past.of_type("study_end")) {
    lost_before_.insert(base::json_get<int>(*end, "lost_trial_id", 0));
  }
  std::vector<base::Json> crashed;
  const base::Json* unfinished = nullptr;
  for (const base::Json* start : past.interrupted()) {
    std::string hash = base::json_get<std::string>(*start, "params_hash", "");
    if (base::json_get<int>(*start, "attempt", 0) < last_attempt_[hash]) {
      continue;  // taken up again already
    }
    bool rebooted = base::json_get<std::string>(*start, "boot_id", "") != boot_id_;
    if (!rebooted) {
      interrupted_id_[hash] = base::json_get<int>(*start, "trial_id", 0);
      unfinished = is_repeated(base::json_get<std::string>(*start, "phase", "")) ? nullptr : start;
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
    crashed.push_back(std::move(end));
  }
  int strangers = 0;
  for (const base::Json& record : past.records) {
    const std::string type = base::json_get<std::string>(record, "type", "");
    if (type == "plugin_start") {
      replay_exchange_start(record);
    }
    auto learnt = type == "trial_end" ? replay_end(record, strangers)
                  : type == "plugin"  ? replay_exchange(record)
                                      : base::Result<void>();
    if (!learnt) {
      return learnt.failure();
    }
  }
  for (const base::Json& end : crashed) {
    if (auto learnt = replay_end(end, strangers); !learnt) {
      return learnt.failure();
    }
  }
  if (unfinished != nullptr) {
    unfinished_ = take_up(*unfinished);
  }
  if (strangers > 0) {
    observer_.note(
        fmt::format("{} recorded trials are not what this version's {} would have asked for; they are "
                    "learnt from all the same",
                    strangers, study_.search.strategy));
  }
  return {};
}

}  // namespace study
