#pragma once
// What the loop knows while a study runs. Shared by loop.cc (ask, trial), learning.cc (tell), replay.cc (the same from
// a journal), plugin_turns.cc (asking a plugin) and confirmation.cc (finals and confirmation); nothing else includes it.

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/study/answers.h"
#include "src/study/loop.h"
#include "src/study/noise.h"
#include "src/study/pace.h"
#include "src/study/ranking.h"

namespace study {

// A trial that has ended, as far as the loop learns from it: the same from a live record and from the journal.
struct EndedTrial {
  std::string phase;
  search::Config config;
  uint64_t key = 0;  // of the configuration
  int trial_id = 0, parent_id = 0;
  bool cold_required = false;
  int confirm_planned = 0;  // as in TrialRequest
  bool confirm_in_place = false;
  Status status = Status::kOk;
  std::optional<TrialMetrics> metrics;  // as measured
  Judgement judgement;                  // drift taken out
  search::Outcome outcome;              // what the strategy is told
  double drift = 1;
  TrialTimes times;
  std::string numerics_key;
  bool cited = false;
  const base::Json *quality = nullptr, *needle = nullptr, *perplexity = nullptr;
};

// What an earlier study knew of a configuration (`warm_start` of the header).
struct KnownTrial {
  search::Config config;  // canonical
  uint64_t key = 0;
  int trial_id = 0;  // in that study
  Status status = Status::kOk;
  std::optional<TrialMetrics> metrics;  // of an ok trial or one ended early; its drift taken out
  std::optional<double> noise;          // of one launch; nullopt: that study had another objective
  int launches = 1;
  search::Outcome outcome;  // as this study judges it; once it was told
};

// The fresh launches that confirm one winner.
struct Series {
  int planned = 0;      // pairs, or blocks; fixed before the first launch, 0 = not yet
  bool blocks = false;  // ABBA blocks in one running server
  std::vector<InPlaceLaunch> in_place;
  std::vector<double> winner, baseline;  // cold
  int winner_launches = 0, missed = 0;   // any of the winner's; those in which a limit did not hold
  bool broken = false;                   // one of these beyond noise
  int failures = 0;                      // launches without a result
  bool machine_lost = false;             // one of these took the machine down: never tried again
};

// How a winner is to be confirmed.
struct ConfirmPlan {
  bool blocks = false, cold = true;  // in place; by processes of their own
  int planned = 0;                   // blocks or cold pairs
  int least = 0;                     // likewise: fewer decide nothing
  bool few = false;                  // so few launches were asked for that nothing is confirmed
  std::string decided;               // the earlier objective entry that already tells them apart, if one does
  double cold_s = 0, warm_s = 0;     // of one launch
};

class Loop {
 public:
  Loop(const Study& study, Journal& journal, TrialRunner& runner, LoopObserver& observer,
       const LoopOptions& options, const base::Json& header, std::string boot_id);

  base::Result<void> replay(const JournalContent& past);
  // After replay(): from here on the plugin, if there is one, is asked.
  void connect_plugin(const base::Json& header);
  base::Result<LoopResult> run();

 private:
  // loop.cc
  double elapsed_s() const;
  double limit_s() const;  // of this run or resume; 0 = none
  bool out_of_time(double needed_s) const { return limit_s() > 0 && elapsed_s() + needed_s > limit_s(); }
  // Waits for the floor; false when it was not reached in time. True, too, when the user stops: ask next.
  bool memory_is_back();
  std::string memory_reason() const;
  uint64_t key_of(const search::Config& config) const;
  TrialRequest request_for(search::Proposal proposal);
  // The next trial: an anchor where one is due, what the strategy asks for, or a repeat once it has finished. False:
  // nothing is left.
  base::Result<bool> next_trial();
  // Of what ran, the next that search.repeats asks for again; nullopt when all have had their launches.
  std::optional<search::Proposal> next_repeat() const;
  // Runs, judges, journals and learns. The record's status is kInterrupted when the user stopped it.
  base::Result<TrialRecord> trial(const TrialRequest& request);
  TrialRecord skipped(const TrialRequest& request, std::string why) const;
  // Whether a trial of that phase matters only where it beats the best, so that it may end early.
  bool must_lead(const std::string& phase) const;
  std::optional<Failure> gate(const TrialRequest& request, const TrialMetrics& so_far) const;
  void judge_record(const TrialRequest& request, TrialRecord& record) const;
  const TrialMetrics* default_metrics() const { return have_default_ ? &default_metrics_ : nullptr; }
  int repeats() const { return study_.probes.speed_options.repeats; }
  // Relative standard error of one launch of the objective's last entry.
  double sigma() const;
  // Whether the objective's last entry is a speed, or made of one.
  bool speed_decides() const;
  // By the user, or because there is no server any more.
  bool stopped() const;
  LoopResult stop_result();
  // The run ends by that; journals why where the user did not ask for it.
  base::Result<LoopResult> stop();
  // Takes note of a trial that lost its server; true: the trial is not over, and runs again on resume.
  bool lose_server(const TrialRequest& request, TrialRecord& record);

  // learning.cc
  // Whether it leads now.
  bool learn(const EndedTrial& trial);
  void learn_speed(const EndedTrial& trial);
  void learn_losses(const EndedTrial& trial);
  void learn_confirmation(const EndedTrial& trial, bool launched, double value);

  // known_trials.cc
  base::Result<void> read_known(const base::Json& header);
  // Once the default has ended, so that its speed now and then can be compared.
  void tell_known();
  // A known configuration that would lead, to be launched here.
  std::optional<search::Proposal> next_check() const;
  bool on_known_front(const KnownTrial& known) const;

  // replay.cc
  base::Result<void> replay_end(const base::Json& end, int& strangers);
  // What a start without an end was to run, as the search proposes it where it still does.
  std::optional<search::Proposal> take_up(const base::Json& start);

  // plugin_turns.cc
  std::unique_ptr<search::Strategy> with_plugin(std::unique_ptr<search::Strategy> strategy);
  search::PluginReply ask_plugin(int exchange, base::Json request);
  // How long it may take now, and what allows no more, in words.
  struct Patience {
    double seconds = 0;
    std::string bound;
  };
  Patience plugin_patience() const;
  base::Json exchange_record(const char* type, int exchange) const;
  // Before anybody is asked, so that what it may cost is never forgotten; false: the journal did not take it.
  bool record_start(int exchange, int asked, const search::PluginUsage& usage);
  void record_exchange(const search::PluginExchange& exchange);
  void tell_plugin(const EndedTrial& trial);
  base::Result<void> replay_exchange(const base::Json& record);
  void replay_exchange_start(const base::Json& record);

  // confirmation.cc
  double final_s() const;         // what finals and confirmation will probably take
  double confirmation_s() const;  // likewise, at least
  double kept_s() const;
  base::Result<LoopResult> conclude(EndReason end, std::string reason);
  // False: stopped by the user.
  base::Result<bool> run_finals(LoopResult& result);
  base::Result<LoopResult> confirm(LoopResult result);
  ConfirmPlan plan_confirmation(const Ranked& winner, const Series& series) const;
  // Launches what the plan still lacks; false when nothing more is to be launched.
  base::Result<bool> run_blocks(LoopResult& result, const ConfirmPlan& plan, const Series& series);
  base::Result<bool> run_cold(LoopResult& result, const ConfirmPlan& plan, const Series& series,
                              size_t pairs);
  void judge_confirmation(LoopResult& result, const ConfirmPlan& plan, const Series& series,
                          Comparison& comparison) const;
  // One launch of a confirmation; false when nothing more is to be launched.
  base::Result<bool> confirm_once(LoopResult& result, const ConfirmPlan& plan, bool default_turn, bool cold,
                                  double needed_s);
  std::string decided_by(const Ranked& winner) const;
  bool same_process(const search::Config& winner) const;
  base::Result<LoopResult> finish(LoopResult result, const Comparison* comparison);

  const Study& study_;
  Journal& journal_;
  TrialRunner& runner_;
  LoopObserver& observer_;
  const LoopOptions& options_;
  std::string study_id_, boot_id_;
  std::function<double()> now_s_;
  double start_s_;
  std::unique_ptr<search::Strategy> strategy_;
  search::Plugin* plugin_ = nullptr;             // strategy_ itself, where the study has one
  base::Json plugin_facts_;                      // sent with each request
  std::optional<base::Error> plugin_unwritten_;  // the journal did not take an exchange or its start
  double asked_s_ = 0, late_s_ = 0;  // patience of the last exchange; of the last in vain to its end
  double trials_s_ = 0;              // of all ended trials
  search::Config default_config_;
  uint64_t default_key_ = 0;

  // The default: its first trial, its speeds the mean over its launches.
  bool have_default_ = false, default_ok_ = false;
  TrialMetrics default_metrics_;
  std::vector<double> default_levels_;  // speed_level of each of its launches, as measured
  std::map<std::string, std::pair<double, int>> default_speeds_;  // sum of logs and number, drift taken out
  Drift drift_;

  KnownAnswers answers_;
  std::vector<TrialMetrics> references_;  // of "quality not_worse_than"
  std::map<std::string, NumericsResult> numerics_;
  // Losses of the default; before it has run, of whatever numerics_key it may turn out to have.
  std::map<std::string, LossReference> losses_by_key_;
  std::optional<LossReference> default_losses_;
  bool no_losses_ = false, told_no_losses_ = false;  // the server gives no log-probabilities of a prompt
  bool losses_given_ = false;                        // some trial has had them
  // All launches of the study as they scatter; those of different processes alone. The same where every launch is a
  // process of its own.
  Noise noise_, between_;
  int process_ = 0;                       // counts them
  std::map<uint64_t, int> last_process_;  // that served a configuration
  Pace pace_;
  Ranking ranking_;
  struct Repeated {
    search::Config config;
    uint64_t key = 0;
    int tries = 1;
  };
  std::vector<KnownTrial> known_;
  std::string known_from_;  // the study
  bool known_told_ = false;
  int checks_ = 0;              // ended
  std::set<uint64_t> checked_;  // configurations that this study has launched
  std::vector<Repeated> ran_;   // what the search launched and ran to its end

  std::unordered_map<std::string, int> last_attempt_;    // by params_hash
  std::unordered_map<std::string, int> interrupted_id_;  // trial_id to take up again
  std::map<int, Series> series_;                         // by the winner's trial_id
  std::optional<search::Proposal> unfinished_;           // of the search: the first to run again
  int leader_id_ = 0;                                    // trial that leads, 0 = none
  int last_id_ = 0, ended_ = 0, since_anchor_ = 0;
  bool repeating_ = false;     // the last trial was a repeat, or an anchor among repeats
  std::string server_lost_;    // why; "" = it serves
  int lost_trial_ = 0;         // under which it went away; 0 = between trials
  std::set<int> lost_before_;  // trials under which it did in former runs
};

}  // namespace study
