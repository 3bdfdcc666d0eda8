#pragma once
// What somebody watching a run sees: a finished line per trial, and on a terminal one live line below them.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "src/study/loop.h"

namespace study {

// True when stdout is a terminal that shows colours.
bool stdout_is_terminal();
// Columns of that terminal; 100 where unknown.
int terminal_width();

class Progress : public LoopObserver {
 public:
  // `live`: draw the live line (a terminal), else plain lines only. `study` must outlive this.
  Progress(const Study& study, bool live);
  ~Progress() override;

  void trial_started(int k, int planned, const TrialRequest& request) override;
  void trial_ended(const TrialRequest& request, const TrialRecord& record, bool new_best) override;
  void asking(std::string_view plugin) override;
  void note(std::string_view line) override;
  // What the running trial is doing: "loading", "quality". From any thread.
  void doing(std::string_view what);
  // Ends the live line for good; nothing may follow.
  void close();

 private:
  void draw();                          // the live line; mutex_ held
  void print(const std::string& line);  // above the live line; mutex_ held
  std::string change_of(const search::Config& config) const;

  const Study& study_;
  const bool live_;
  const std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  bool running_ = false;
  std::chrono::steady_clock::time_point trial_start_;
  std::string label_, doing_, best_;
  std::jthread ticker_;
};

}  // namespace study
