#pragma once
// The study loop: ask, trial, tell, until the strategy has finished, the trials or the time are used up, or
// the user stops it; then confirmation and the verdict. Everything it learns is in the journal before it goes
// on.

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "search/plugin.h"
#include "src/study/journal.h"
#include "src/study/trial.h"
#include "src/study/verdict.h"

namespace study {

// kServerLost: a server that is not ours to launch serves no more.
enum class EndReason { kFinished, kBudget, kInterrupted, kMemory, kServerLost };

struct LoopOptions {
  int max_trials = 60;    // ended trials of the whole study; finals, confirmation, skips not counted
  double budget_s = 0;    // wall time of this run or resume; 0 = none
  double deadline_s = 0;  // seconds from now ("until"); 0 = none
  // Fresh launches of winner and default each: at least so many, up to kMostPairs where noise asks for it; under
  // three exactly so many (never confirmed); 0 = neither finals nor confirmation.
  int confirm_launches = 3;
  uint64_t min_headroom_bytes = 0;    // no launch below this much available memory
  double memory_wait_s = 60;          // how long to wait for it
  int anchor_every = 8;               // the default again after so many trials; 0 = never
  std::vector<std::string> in_place;  // axes a running server changes; see search::Limits
  // Why this configuration cannot fit into memory, "" when it may: asked before each launch. May be empty.
  std::function<std::string(const search::Config&)> cannot_fit;
  // Asks the plugin of the study, where it has one: exchange number, request (one line), seconds at most. May be empty.
  std::function<search::PluginReply(int, const std::string&, double)> ask_plugin;
  // Seconds on a clock that only goes forward; empty = the steady clock. For tests.
  std::function<double()> now_s;
};

// A confirmation has at most so many cold pairs or ABBA blocks, and in place at least so many blocks and cold
// launches of each.
inline constexpr int kMostPairs = 12, kLeastPairs = 3, kLeastBlocks = 6, kColdLaunches = 2;
// The finals: so many contenders are launched again, the best so many of those once more, and so on. A wide first wave
// finds a true gain more often than more launches of few (tests/study/noise_test.cc).
inline constexpr std::array kFinalWaves = {6, 3, 2};

// What somebody watching is told. `k` counts ended trials, the running one included.
class LoopObserver {
 public:
  virtual ~LoopObserver() = default;
  virtual void trial_started(int k, int planned, const TrialRequest& request) = 0;
  // `best` is its number among the study's trials, 0 when none is feasible yet.
  virtual void trial_ended(const TrialRequest& request, const TrialRecord& record, bool new_best) = 0;
  // A plugin thinks about its next proposals; "" when it has done so.
  virtual void asking(std::string_view /*plugin*/) {}
  virtual void note(std::string_view line) = 0;
};

struct LoopResult {
  EndReason end = EndReason::kFinished;
  Verdict verdict = Verdict::kNoFeasible;
  std::string reason;  // one sentence
};

// Runs or continues the study of `past` (its header alone for a new one). Errors: the journal cannot be
// written. `boot_id` is this boot's: an interrupted trial of another boot is a host crash.
base::Result<LoopResult> run_loop(const Study& study, const JournalContent& past, Journal& journal,
                                  TrialRunner& runner, LoopObserver& observer, const LoopOptions& options,
                                  const std::string& boot_id);

}  // namespace study
