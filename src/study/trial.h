#pragma once
// One trial, from launch to record: ready, probes cheapest first, stop, wait until its memory is back.

#include <functional>
#include <string>

#include "src/os/http_client.h"
#include "src/study/backends.h"
#include "src/study/record.h"

namespace study {

// What the loop needs of a trial; a test's fake scripts outcomes without processes.
class TrialRunner {
 public:
  virtual ~TrialRunner() = default;
  // The launch of this configuration; written to the journal before run().
  virtual base::Result<LaunchPlan> plan(const TrialRequest& request) = 0;
  // Status::kInterrupted when the user stopped it: no end is then written.
  virtual TrialRecord run(const TrialRequest& request, const LaunchPlan& plan) = 0;
};

class ServerTrialRunner : public TrialRunner {
 public:
  // `log_directory` is where each candidate's log and the empty configuration directory go. `progress` is
  // told what the trial is doing ("loading", "quality"); it may be empty. `study` and `program` must outlive
  // this.
  ServerTrialRunner(const Study& study, const ServerProgram& program, std::string log_directory,
                    std::function<void(std::string_view)> progress);

  base::Result<LaunchPlan> plan(const TrialRequest& request) override;
  TrialRecord run(const TrialRequest& request, const LaunchPlan& plan) override;

 private:
  const Study& study_;
  const ServerProgram& program_;
  std::string log_directory_;
  std::function<void(std::string_view)> progress_;
};

// The phase of confirmation launches: speed only, everything else is known.
inline constexpr std::string_view kConfirmPhase = "confirm";

// Which failure a probe's Error stands for, once the candidate is known to be alive. Pure.
Status classify_probe_error(os::HttpFault fault, bool health_answers);

}  // namespace study
