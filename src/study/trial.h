#pragma once
// One trial, from launch to record: ready, probes cheapest first, stop, wait until its memory is back.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/study/backends.h"
#include "src/study/record.h"

namespace study {

class Instance;

// What depends on a numerics_key alone, as some trial measured it.
struct NumericsResult {
  int trial_id = 0;
  base::Json quality, needle;            // as in that trial's record
  base::Json perplexity;                 // likewise, without the tokens' losses
  std::map<std::string, double> values;  // quality, needle_recall, ppl, ppl_change
  std::map<std::string, bool> quality_items;
};

// The losses that every other configuration's perplexity is compared with: the default configuration's.
struct LossReference {
  int trial_id = 0;
  std::string text_hash;
  std::vector<probes::TokenLoss> losses;
};

// What the trials before this one settle. Owned by the loop; empty members are allowed.
struct TrialContext {
  // By numerics_key, or nullptr: quality and needle of a key that is there are cited, not measured.
  const std::map<std::string, NumericsResult>* known = nullptr;
  // Asked after each probe with what was measured so far: a Failure (kPruned, kQualityFail) ends the trial early.
  std::function<std::optional<Failure>(const TrialMetrics& so_far)> gate;
  const LossReference* losses = nullptr;  // none measured yet
  bool no_losses = false;                 // the server is known to give none: it is not asked again
  bool losses_given = false;              // some trial has had them: who gives none now fails by itself
};

// What the loop needs of a trial; a test's fake scripts outcomes without processes.
class TrialRunner {
 public:
  virtual ~TrialRunner() = default;
  // The launch of this configuration; written to the journal before run().
  virtual base::Result<LaunchPlan> plan(const TrialRequest& request) = 0;
  // Status::kInterrupted when the user stopped it: no end is then written.
  virtual TrialRecord run(const TrialRequest& request, const LaunchPlan& plan,
                          const TrialContext& context) = 0;
  // Whether a running server goes from one configuration to the other without a fresh process.
  virtual bool in_place(const search::Config& /*from*/, const search::Config& /*to*/) const { return false; }
  // Address of a server that serves between trials, "" where none does.
  virtual std::string server_url() { return ""; }
  // Stops a server that was kept for the next trial. Called before waits, at the end, and when interrupted.
  virtual void release() {}
};

// Trials on real servers. With `reuse: auto` a server that offers /reconfigure stays for the next trial, which is then
// run in place where every axis that differs is offered; where the server refuses or fails, or a cold trial is
// asked for, a fresh one is launched, and only what that comes to is recorded.
class ServerTrialRunner : public TrialRunner {
 public:
  // `log_directory` is where each launch's log and the empty configuration directory go. `progress` is
  // told what the trial is doing ("loading", "quality"); it may be empty. `study` and `program` must outlive
  // this.
  ServerTrialRunner(const Study& study, const ServerProgram& program, std::string log_directory,
                    std::function<void(std::string_view)> progress);
  ~ServerTrialRunner() override;  // release(); a server that we did not launch gets back what it had before

  base::Result<LaunchPlan> plan(const TrialRequest& request) override;
  TrialRecord run(const TrialRequest& request, const LaunchPlan& plan, const TrialContext& context) override;
  // By what the last server offered; before the first one by what the program says of itself.
  bool in_place(const search::Config& from, const search::Config& to) const override;
  void release() override;
  std::string server_url() override;

 private:
  void report(std::string_view doing) const;
  // Whether the kept server now has this configuration. When not, it is gone; a foreign one by the change itself, as
  // far as lost_in_trial says so.
  bool change_in_place(const TrialRequest& request, TrialRecord& record);
  // A server that we did not launch gets its configuration by /reconfigure alone.
  std::optional<Failure> configure_foreign(const search::Config& wanted, TrialRecord& record);
  // Into instance_, unless it fails before it is ready.
  std::optional<Failure> launch(const TrialRequest& request, const LaunchPlan& plan, TrialRecord& record);
  // A server that we did not launch may have been started anew with other flags since the study began: then it is as
  // good as lost, and the record says so.
  std::optional<Failure> other_settings(TrialRecord& record);
  // After a failure of a server that we did not launch: whether it serves again within the load's time. When not,
  // the record says that it is lost.
  void look_for_foreign(const LaunchPlan& plan, std::optional<Failure>& failure, TrialRecord& record);
  void keep_or_stop(std::optional<Failure>& failure, TrialRecord& record);

  const Study& study_;
  const ServerProgram& program_;
  std::string log_directory_;
  std::function<void(std::string_view)> progress_;
  std::vector<std::string> offered_;  // axes, by the last server
  std::unique_ptr<Instance> instance_;
  // Of a server that we did not launch: its address, and the axes as it had them before the first trial.
  probes::Endpoint foreign_;
  base::Json former_;
};

// The loop's own phases: speed only, everything else is known. The strategy is not told of them.
inline constexpr std::string_view kAnchorPhase = "anchor", kFinalPhase = "final", kConfirmPhase = "confirm",
                                  kRepeatPhase = "repeat";
// The loop's own, too, but a whole trial, of which the strategy is told: the best that an earlier study knew.
inline constexpr std::string_view kCheckPhase = "check";
// Of a configuration that has run: only its speed is measured again, and the search is not told.
inline bool is_repeated(std::string_view phase) {
  return phase == kAnchorPhase || phase == kFinalPhase || phase == kConfirmPhase || phase == kRepeatPhase;
}

}  // namespace study
