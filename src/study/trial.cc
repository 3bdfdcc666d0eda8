#include "src/study/trial.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "src/base/log.h"
#include "src/os/files.h"
#include "src/os/host.h"
#include "src/os/proc.h"
#include "src/study/clock.h"
#include "src/study/hardware_record.h"
#include "src/study/in_place.h"
#include "src/study/instance.h"
#include "src/study/interrupt.h"
#include "src/study/journal.h"
#include "src/study/launcher.h"
#include "src/study/measurement.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kGiB = 1 << 30;
constexpr int kPortTries = 3;

std::string numerics_key_of(const base::Json& effective) {
  return effective.is_object() && effective.contains("tbq")
             ? base::json_get<std::string>(effective["tbq"], "numerics_key", "")
             : "";
}

// Two builds may call themselves the same: which file it is, where that is an axis.
std::string build_of(const std::string& program) {
  std::error_code ignored;
  const auto written = std::filesystem::last_write_time(program, ignored).time_since_epoch().count();
  return content_hash(
      fmt::format("{}|{}|{}", program, std::filesystem::file_size(program, ignored), written));
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
      progress_(std::move(progress)),
      offered_(in_place_axes(study, program)) {}

ServerTrialRunner::~ServerTrialRunner() {
  ServerTrialRunner::release();
  if (former_.is_object() && !former_.empty()) {
    report("setting the server back");
    double limit_s = std::min(study_.backend.load_timeout_s, study_.probes.request_timeout_s);
    if (auto done = set_back(foreign_, former_, limit_s); !done) {
      base::log_warn("the running server keeps the last trial's configuration, not {}: {}",
                     base::dump_line(former_), done.failure().to_string());
    }
  }
}

void ServerTrialRunner::report(std::string_view doing) const {
  if (progress_) {
    progress_(doing);
  }
}

base::Result<LaunchPlan> ServerTrialRunner::plan(const TrialRequest& request) {
  auto port = os::free_port();
  if (!port) {
    return port.failure();
  }
  LaunchSite site;
  site.port = *port;
  std::error_code ignored;
  site.directory = std::filesystem::current_path(ignored).string();
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

bool ServerTrialRunner::in_place(const search::Config& from, const search::Config& to) const {
  return study_.backend.reuse == Reuse::kAuto && reconfigure_body(study_, &from, to, offered_).has_value();
}

void ServerTrialRunner::release() {
  if (instance_ != nullptr) {
    report("stopping");
    instance_->stop();
    instance_.reset();
  }
}

bool ServerTrialRunner::change_in_place(const TrialRequest& request, TrialRecord& record) {
  if (instance_ == nullptr) {
    return false;
  }
  if (request.cold) {
    release();
    return false;
  }
  report("reconfiguring");
  Instance::Change change = instance_->reconfigure(request.proposal.config);
  if (change.result == Instance::Change::kDone || change.result == Instance::Change::kInterrupted) {
    record.cold = false;
    record.t_reconfigure_s = change.reconfigure_s;
    record.t_warmup_s = change.warmup_s;
    record.log_path = instance_->log_path();
    record.metrics.values["load_s"] = instance_->load_s();  // of the process that serves
    return true;
  }
  if (change.result != Instance::Change::kImpossible) {
    base::log_info("trial {} is launched afresh, the running server was not changed: {}", request.trial_id,
                   change.why);
  }
  record.lost_in_trial = change.result == Instance::Change::kGone && change.served;
  release();
  return false;
}

std::optional<Failure> ServerTrialRunner::launch(const TrialRequest& request, const LaunchPlan& first_plan,
                                                 TrialRecord& record) {
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
  record.effective = server.effective;
  record.t_load_s = server.t_load_s;
  record.t_warmup_s = server.t_warmup_s;
  record.exit = server.exit;
  record.argv = redacted(plan.argv);
  record.env = served_env(study_, plan);
  std::optional<Failure> failure = server.failure;
  const search::Config& wanted = request.proposal.config;
  const bool foreign = server.foreign;
  // Whoever stops the run says nothing of the server.
  if (failure && foreign && failure->status != Status::kInterrupted && !interrupted()) {
    record.server_lost = fmt::format("no trial can run on the server at {}: {}", plan.url, failure->reason);
    former_ = nullptr;  // the next server there has a configuration of its own
  } else {
    record.lost_in_trial = false;  // it came back, or was ours
  }
  if (!failure && !foreign) {
    std::string mismatch = config_mismatch(study_.space, wanted, server.effective);
    if (!mismatch.empty()) {
      failure = Failure{Status::kConfigMismatch, mismatch};
    }
  }
  if (!failure && foreign) {
    failure = other_settings(record);
  }
  // What a foreign server runs with so far is nobody's configuration.
  instance_ = std::make_unique<Instance>(study_, std::move(server), foreign ? search::Config() : wanted,
                                         record.log_path);
  if (!failure && foreign) {
    failure = configure_foreign(wanted, record);
  }
  if (!failure) {
    offered_ = instance_->offered();
  }
  return failure;
}

std::optional<Failure> ServerTrialRunner::other_settings(TrialRecord& record) {
  if (record.effective.is_null()) {
    return std::nullopt;  // it did not say this time
  }
  const std::string changed = changed_settings(study_.space, program_.settings, record.effective);
  if (changed.empty()) {
    return std::nullopt;
  }
  record.server_lost =
      fmt::format("the server at {} was started anew with other settings: {}", program_.path, changed);
  former_ = nullptr;  // it has a configuration of its own
  return Failure{Status::kConfigMismatch, record.server_lost};
}

std::optional<Failure> ServerTrialRunner::configure_foreign(const search::Config& wanted,
                                                            TrialRecord& record) {
  report("reconfiguring");
  if (former_.is_null()) {
    foreign_ = instance_->server().endpoint;
    former_ = told_axes(study_.space, instance_->server().effective);
    for (const search::Axis& axis : study_.space.axes) {
      const std::vector<std::string>& offered = instance_->offered();
      if (std::find(offered.begin(), offered.end(), axis.name) == offered.end()) {
        former_.erase(axis.name);
      }
    }
  }
  Instance::Change change = instance_->reconfigure(wanted);
  record.cold = false;
  record.effective = instance_->server().effective;
  switch (change.result) {
    case Instance::Change::kDone:
      record.t_reconfigure_s = change.reconfigure_s;
      record.t_warmup_s = change.warmup_s;
      return std::nullopt;
    case Instance::Change::kInterrupted:
      return Failure{Status::kInterrupted, "stopped by the user"};
    case Instance::Change::kGone:
      return Failure{Status::kRunCrash, "the running server: " + change.why};
    case Instance::Change::kImpossible:
      return Failure{Status::kConfigMismatch,
                     "the running server offers no /reconfigure for these axes any more"};
    case Instance::Change::kRefused:
    case Instance::Change::kFailed:
      break;
  }
  // Why it cannot be is told in words only; lack of memory tells the search something.
  return Failure{classify_exit({}, {}, change.why, Status::kConfigMismatch).status,
                 "the running server: " + change.why};
}

void ServerTrialRunner::look_for_foreign(const LaunchPlan& plan, std::optional<Failure>& failure,
                                         TrialRecord& record) {
  bool dead = failure && (failure->status == Status::kRunCrash || failure->status == Status::kHang ||
                          failure->status == Status::kTimeout);
  if (!dead || !plan.foreign || !record.server_lost.empty() || interrupted()) {
    return;
  }
  // Whoever runs it may have it started again; the trial has failed then, and the study goes on.
  report("waiting for the server");
  LaunchOptions options = launch_options(study_);
  Launched again = launch_until_ready(plan, options);
  if (again.failure && again.failure->status != Status::kInterrupted) {
    record.server_lost = fmt::format("the server at {} has gone ({}), and does not come back: {}", plan.url,
                                     failure->reason, again.failure->reason);
    record.lost_in_trial = true;
    former_ = nullptr;  // the next server there has a configuration of its own
  }
}

// What is measured in full, or ended early by the loop itself, leaves a server that is as good as before.
void ServerTrialRunner::keep_or_stop(std::optional<Failure>& failure, TrialRecord& record) {
  bool sound = !failure || failure->status == Status::kPruned || failure->status == Status::kQualityFail;
  os::MemoryTrace trace;
  bool measured = instance_->server().child != nullptr;
  uint64_t available_after = 0;
  if (sound && study_.backend.reuse == Reuse::kAuto && !instance_->offered().empty() && !interrupted() &&
      instance_->alive()) {
    if (measured) {
      trace = instance_->server().child->memory();
      available_after = trace.available_now;
    }
  } else {
    report("stopping");
    Instance::Stopped stopped = instance_->stop();
    instance_.reset();
    trace = stopped.trace;
    available_after = stopped.available_after;
    // The guard may strike between two probes' requests.
    if (stopped.exit.memory_guard && (!failure || failure->status != Status::kOom)) {
      failure = classify_exit(stopped.exit, trace, "", Status::kRunCrash);
      record.exit = stopped.exit;
    }
  }
  if (!measured) {
    return;
  }
  record.memory = study::to_json(trace, available_after);
  if (trace.samples > 0) {
    record.metrics.values["min_headroom_gib"] = static_cast<double>(trace.headroom_min) / kGiB;
    record.metrics.values["rss_gib"] = static_cast<double>(trace.rss_peak) / kGiB;
  }
}

std::string ServerTrialRunner::server_url() {
  if (study_.backend.kind == BackendKind::kUrl) {
    return study_.backend.url;
  }
  return instance_ != nullptr && instance_->alive() ? instance_->server().endpoint.base_url : "";
}

TrialRecord ServerTrialRunner::run(const TrialRequest& request, const LaunchPlan& plan,
                                   const TrialContext& context) {
  auto start = Clock::now();
  TrialRecord record;
  record.log_path = fmt::format("{}/{:04}-{}.log", log_directory_, request.trial_id, request.attempt);
  const os::HardwareState hw_before = os::read_hardware_state();

  std::optional<Failure> failure;
  // Before it is changed: one that was started anew with other flags is not ours to reconfigure.
  if (plan.foreign && instance_ != nullptr && instance_->look_again()) {
    record.effective = instance_->server().effective;
    failure = other_settings(record);
  }
  if (failure) {
    record.argv = redacted(plan.argv);
    record.env = served_env(study_, plan);
  } else if (change_in_place(request, record)) {
    record.argv = redacted(plan.argv);  // what launches this configuration; the process began as another
    record.env = served_env(study_, plan);
    record.effective = instance_->server().effective;
    failure = other_settings(record);
  } else {
    failure = launch(request, plan, record);
  }
  if (interrupted()) {
    failure = Failure{Status::kInterrupted, "stopped by the user"};
  }
  if (!failure) {
    record.numerics_key = numerics_key_of(record.effective);
    if (!record.numerics_key.empty() && study_.space.find("binary") != nullptr && !plan.argv.empty()) {
      record.numerics_key += "-" + build_of(plan.argv.front());
    }
    if (!request.speed_only && request.proposal.phase != kConfirmPhase) {
      cite(study_.probes, context, base::json_get<int64_t>(record.effective, "n_ctx", 0), record);
    }
    auto measuring = Clock::now();
    failure = measure(study_, request, instance_->server(), context, progress_, record);
    record.t_measure_s = seconds_since(measuring);
  }
  look_for_foreign(plan, failure, record);
  // Before the stop: clocks, heat and the GPU's memory as the load left them.
  record.hw = hardware_record(hw_before, os::read_hardware_state());
  keep_or_stop(failure, record);
  if (interrupted()) {
    failure = Failure{Status::kInterrupted, "stopped by the user"};
    release();
  }
  if (failure) {
    record.status = failure->status;
    record.reason = failure->reason;
    bool early = failure->status == Status::kPruned || failure->status == Status::kQualityFail;
    if (!early) {
      record.log_tail = os::read_tail(record.log_path, 4 << 10);
      record.metrics = {};
      record.cited_trial_id = 0;
    }
  }
  record.t_total_s = seconds_since(start);
  return record;
}

}  // namespace study
