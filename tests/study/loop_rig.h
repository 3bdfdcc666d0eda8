#pragma once
// A study of two axes whose trials are scripted, run by the real loop into a real journal.

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "src/study/interrupt.h"
#include "src/study/loop.h"

namespace loop_rig {

inline search::Axis axis(const char* name, std::vector<search::Value> values) {
  search::Axis out;
  out.name = name;
  out.values = std::move(values);
  return out;
}

inline study::Study make_study() {
  study::Study study;
  study.name = "t";
  study.space.axes = {axis("n_batch", {int64_t{1}, int64_t{2}, int64_t{4}, int64_t{8}}),
                      axis("n_threads", {int64_t{1}, int64_t{2}, int64_t{3}})};
  study.objective.maximize = {*search::Expression::parse("decode_tps")};
  study.search.max_trials = 10;
  return study;
}

// decode_tps = 100 * n_batch - 5 * n_threads; what goes wrong is scripted by trial number.
class FakeRunner : public study::TrialRunner {
 public:
  std::map<int, study::Status> failures;
  std::map<int, bool> losses;  // the server is lost; true: in the trial
  bool stopped_while_lost = false;
  std::map<int, base::Json> perplexity;               // of these trials' records
  std::vector<std::pair<bool, bool>> told_of_losses;  // TrialContext: no_losses, losses_given
  std::function<void(const study::TrialRequest&)> before_run;
  std::vector<study::TrialRequest> seen;
  std::function<double(int)> speed;  // of the machine at this launch, from 1
  int launches = 0;                  // so far; the journal's, where a study is resumed
  double noise = 0, trial_s = 0.01;

  base::Result<study::LaunchPlan> plan(const study::TrialRequest& request) override {
    study::LaunchPlan plan;
    plan.argv = {"server", "--port", "1", "--api-key", "hush", std::to_string(request.trial_id)};
    return plan;
  }
  study::TrialRecord run(const study::TrialRequest& request, const study::LaunchPlan&,
                         const study::TrialContext& context) override {
    seen.push_back(request);
    told_of_losses.emplace_back(context.no_losses, context.losses_given);
    if (before_run) {
      before_run(request);
    }
    study::TrialRecord record;
    record.t_total_s = trial_s;
    if (study::interrupted()) {
      record.status = study::Status::kInterrupted;
      return record;
    }
    if (auto loses = losses.find(request.trial_id); loses != losses.end()) {
      record.status = study::Status::kRunCrash;
      record.reason = "gone";
      record.server_lost = "the server is gone";
      record.lost_in_trial = loses->second;
      if (stopped_while_lost) {
        study::set_interrupted(2);
      }
      return record;
    }
    auto failure = failures.find(request.trial_id);
    if (failure != failures.end()) {
      record.status = failure->second;
      record.reason = "scripted";
      return record;
    }
    if (auto scripted = perplexity.find(request.trial_id); scripted != perplexity.end()) {
      record.perplexity = scripted->second;
    }
    record.metrics.config = request.proposal.config;
    double batch = static_cast<double>(std::get<int64_t>(request.proposal.config[0]));
    double threads = static_cast<double>(std::get<int64_t>(request.proposal.config[1]));
    ++launches;
    record.metrics.values["decode_tps"] =
        (100 * batch - 5 * threads + noise * static_cast<double>(seen.size() % 3)) *
        (speed ? speed(launches) : 1);
    return record;
  }
};

class Silent : public study::LoopObserver {
 public:
  std::vector<std::string> notes;
  void trial_started(int, int, const study::TrialRequest&) override {}
  void trial_ended(const study::TrialRequest&, const study::TrialRecord&, bool) override {}
  void note(std::string_view line) override { notes.emplace_back(line); }
};

struct Fixture {
  std::string path =
      (std::filesystem::temp_directory_path() / ("ar-loop-" + std::to_string(getpid()) + ".jsonl")).string();
  study::Study study = make_study();
  study::LoopOptions options;
  Silent observer;
  std::string boot = "boot-1";
  base::Json header = {{"type", "study"}, {"schema_version", 1}, {"study_id", "t-1"}};

  Fixture() {
    std::filesystem::remove(path);
    options.max_trials = 10;
    options.confirm_launches = 0;
  }
  ~Fixture() {
    study::set_interrupted(0);
    std::filesystem::remove(path);
  }
  study::LoopResult start(FakeRunner& runner) {
    auto journal = study::Journal::create(path, header);
    REQUIRE(journal.ok());
    study::JournalContent past;
    past.header = header;
    return finish(past, *journal, runner);
  }
  study::LoopResult resume(FakeRunner& runner) {
    study::set_interrupted(0);
    auto opened = study::Journal::open(path);
    REQUIRE(opened.ok());
    return finish(opened->second, opened->first, runner);
  }
  study::LoopResult finish(const study::JournalContent& past, study::Journal& journal, FakeRunner& runner) {
    auto result = study::run_loop(study, past, journal, runner, observer, options, boot);
    REQUIRE(result.ok());
    return *result;
  }
  study::JournalContent content() const {
    auto loaded = study::load_journal(path);  // checks the invariants
    REQUIRE(loaded.ok());
    return *loaded;
  }
  // params_hash -> status of every end that search made, in order.
  std::vector<std::string> ends() const {
    std::vector<std::string> out;
    study::JournalContent held = content();
    for (const base::Json* end : held.of_type("trial_end")) {
      out.push_back((*end)["params_hash"].get<std::string>() + " " + (*end)["status"].get<std::string>());
    }
    return out;
  }
};

}  // namespace loop_rig
