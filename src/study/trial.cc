#include "src/study/trial.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "src/os/files.h"
#include "src/os/host.h"
#include "src/os/proc.h"
#include "src/study/clock.h"
#include "src/study/interrupt.h"
#include "src/study/launcher.h"
#include "src/study/measurement.h"

extern "C" char** environ;

namespace study {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kGiB = 1 << 30;
constexpr int kPortTries = 3;

base::Json number_or_null(double value) {
  return std::isfinite(value) ? base::Json(value) : base::Json(nullptr);
}

base::Json to_json(const os::HardwareState& state) {
  return {{"temperature_c", number_or_null(state.temperature_c)},
          {"cpu_mhz_min", number_or_null(state.cpu_mhz_min)},
          {"cpu_mhz_max", number_or_null(state.cpu_mhz_max)}};
}

// After the stop: until what the candidate held itself is available again. Bounded, since others use memory
// too.
uint64_t wait_for_memory(const os::MemoryTrace& trace) {
  uint64_t held = trace.rss_peak - std::min(trace.rss_peak, trace.rss_file_peak);
  uint64_t slack = held / 2 + (uint64_t{64} << 20);
  double limit_s = 2 + static_cast<double>(held) / kGiB;
  auto start = Clock::now();
  uint64_t available = os::read_meminfo().available;
  while (available + slack < trace.available_before && seconds_since(start) < limit_s && !interrupted()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    available = os::read_meminfo().available;
  }
  return available;
}

std::vector<std::string> environment_names() {
  std::vector<std::string> names;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view pair = *entry;
    names.emplace_back(pair.substr(0, pair.find('=')));
  }
  return names;
}

}  // namespace

ServerTrialRunner::ServerTrialRunner(const Study& study, const ServerProgram& program,
                                     std::string log_directory,
                                     std::function<void(std::string_view)> progress)
    : study_(study),
      program_(program),
      log_directory_(std::move(log_directory)),
      progress_(std::move(progress)) {}

base::Result<LaunchPlan> ServerTrialRunner::plan(const TrialRequest& request) {
  auto port = os::free_port();
  if (!port) {
    return port.failure();
  }
  LaunchSite site;
  site.port = *port;
  site.empty_config_dir = log_directory_ + "/no-config";
  if (auto made = os::make_directories(site.empty_config_dir); !made) {
    return made.failure();
  }
  if (!study_.backend.api_key_env.empty()) {
    const char* key = std::getenv(study_.backend.api_key_env.c_str());
    site.api_key = key == nullptr ? "" : key;
  }
  site.inherited_names = environment_names();
  return plan_launch(study_, program_, request.proposal.config, site);
}

TrialRecord ServerTrialRunner::run(const TrialRequest& request, const LaunchPlan& first_plan,
                                   const TrialContext& context) {
  auto start = Clock::now();
  TrialRecord record;
  record.log_path = fmt::format("{}/{:04}-{}.log", log_directory_, request.trial_id, request.attempt);
  base::Json hw_before = to_json(os::read_hardware_state());

  LaunchOptions options = launch_options(study_);
  options.log_path = record.log_path;
  options.progress = progress_;

  LaunchPlan plan = first_plan;
  Launched server = launch_until_ready(plan, options);
  for (int tries = 1; server.port_taken && tries < kPortTries && !interrupted(); ++tries) {
    server.child.reset();
    auto again = this->plan(request);  // another free port
    if (!again) {
      break;
    }
    plan = *again;
    server = launch_until_ready(plan, options);
  }
  record.argv = redacted(plan.argv);
  record.effective = server.effective;
  record.t_load_s = server.t_load_s;
  record.t_warmup_s = server.t_warmup_s;
  record.exit = server.exit;
  std::optional<Failure> failure = server.failure;

  if (!failure) {
    std::string mismatch = config_mismatch(study_.space, request.proposal.config, server.effective);
    if (!mismatch.empty()) {
      failure = Failure{Status::kConfigMismatch, mismatch};
    }
  }
  if (!failure) {
    auto measuring = Clock::now();
    failure = measure(study_, request, server, context, progress_, record);
    record.t_measure_s = seconds_since(measuring);
  }
  if (server.child != nullptr) {
    if (progress_) {
      progress_("stopping");
    }
    os::ChildExit exit = server.child->stop(study_.backend.stop_grace_s);
    os::MemoryTrace trace = server.child->memory();
    server.child.reset();
    // The guard may strike between two probes' requests.
    if (exit.memory_guard && (!failure || failure->status != Status::kOom)) {
      failure = classify_exit(exit, trace, "", Status::kRunCrash);
      record.exit = exit;
    }
    record.memory = study::to_json(trace, wait_for_memory(trace));
    if (trace.samples > 0) {
      record.metrics.values["min_headroom_gib"] = static_cast<double>(trace.headroom_min) / kGiB;
      record.metrics.values["rss_gib"] = static_cast<double>(trace.rss_peak) / kGiB;
    }
  }
  if (interrupted()) {
    failure = Failure{Status::kInterrupted, "stopped by the user"};
  }
  if (failure) {
    record.status = failure->status;
    record.reason = failure->reason;
    record.log_tail = os::read_tail(record.log_path, 4 << 10);
    record.metrics = {};
  }
  record.hw = {{"before", hw_before}, {"after", to_json(os::read_hardware_state())}};
  record.t_total_s = seconds_since(start);
  return record;
}

}  // namespace study
