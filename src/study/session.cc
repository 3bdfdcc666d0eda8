#include "src/study/session.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <filesystem>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/proc.h"
#include "src/report/report.h"
#include "src/study/clock.h"
#include "src/study/commands.h"
#include "src/study/header.h"
#include "src/study/interrupt.h"
#include "src/study/progress.h"

namespace study {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMinDiskBytes = uint64_t{64} << 20;

base::Result<void> check_disk(const std::string& journal_path) {
  std::string directory = fs::path(journal_path).parent_path().string();
  directory = directory.empty() ? "." : directory;
  if (auto made = os::make_directories(directory); !made) {
    return made.failure();
  }
  std::error_code problem;
  fs::space_info space = fs::space(directory, problem);
  if (!problem && space.available < kMinDiskBytes) {
    return base::error(directory, fmt::format("only {} free", base::format_bytes(space.available)),
                       "free some space, or choose another --out");
  }
  return {};
}

}  // namespace

int fail(const base::Error& error, ExitCode code) {
  fmt::print(stderr, "error: {}\n", error.to_string());
  return code;
}

base::Result<Preflight> preflight(const Study& study, const std::string& journal_path) {
  Preflight checked;
  auto model = model_identity(study.model);
  if (!model) {
    return model.failure();
  }
  checked.model = std::move(*model);
  auto program = discover_backend(study.backend);
  if (!program) {
    return program.failure();
  }
  checked.program = std::move(*program);
  if (auto problems = unsupported_axes(study, checked.program); !problems.empty()) {
    std::string all;
    for (const base::Error& problem : problems) {
      all += (all.empty() ? "" : "\n       ") + problem.to_string();
    }
    return base::error("", all);
  }
  if (!study.backend.api_key_env.empty() && std::getenv(study.backend.api_key_env.c_str()) == nullptr) {
    return base::error(study.backend.api_key_env, "backend.api_key_env names a variable that is not set",
                       "export it before the run");
  }
  if (auto disk = check_disk(journal_path); !disk) {
    return disk.failure();
  }
  return checked;
}

base::Result<double> seconds_to_clock(const std::string& clock_time) {
  auto seconds = seconds_until(clock_time, std::time(nullptr));
  if (!seconds) {
    return base::error("until", fmt::format("'{}' is not a time of day", clock_time),
                       "write HH:MM, such as 07:00");
  }
  return *seconds;
}

std::string log_directory_of(const std::string& journal_path) {
  std::string stem =
      journal_path.ends_with(".jsonl") ? journal_path.substr(0, journal_path.size() - 6) : journal_path;
  return stem + ".logs";
}

void print_report(const JournalContent& content, int port) {
  report::ReportOptions options;
  options.colour = stdout_is_terminal();
  options.width = std::min(terminal_width(), 120);
  options.port = port;
  std::fputs(report::render(content.header, content.records, options).c_str(), stdout);
  std::fflush(stdout);
}

int exit_code_of(Verdict verdict, EndReason end) {
  if (end == EndReason::kMemory) {
    return kExitMemory;
  }
  if (verdict == Verdict::kConfirmed) {
    return kExitConfirmed;
  }
  if (end == EndReason::kBudget) {
    return kExitBudget;
  }
  return verdict == Verdict::kNoFeasible ? kExitNoFeasible : kExitUnconfirmed;
}

int run_session(const Study& study, const Preflight& checked, Journal& journal, const JournalContent& past,
                const SessionOptions& options) {
  LoopOptions loop;
  loop.max_trials = options.max_trials;
  loop.budget_s = options.budget_s;
  loop.confirm_launches = options.confirm_launches;
  loop.anchor_every = study.search.anchor_every;
  loop.min_headroom_bytes = static_cast<uint64_t>(study.probes.min_headroom_gib * (1 << 30));
  if (!options.until.empty()) {
    auto left = seconds_to_clock(options.until);
    if (!left) {
      return fail(left.failure(), kExitUsage);
    }
    loop.deadline_s = *left;
  }
  std::string logs = log_directory_of(journal.path());
  if (auto made = os::make_directories(logs); !made) {
    return fail(made.failure(), kExitPreflight);
  }
  if (int killed = os::kill_leftovers(); killed > 0) {
    base::log_warn("ended {} processes that a killed driver had left behind", killed);
  }
  install_interrupt_handlers();
  Progress progress(study, stdout_is_terminal() && !options.quiet);
  ServerTrialRunner runner(study, checked.program, fs::absolute(logs).string(),
                           [&](std::string_view doing) { progress.doing(doing); });
  auto result = run_loop(study, past, journal, runner, progress, loop, os::boot_id());
  progress.close();
  if (!result) {
    return fail(result.failure(), kExitJournal);
  }
  if (result->end == EndReason::kInterrupted) {
    fmt::print("\nStopped. Nothing that was finished is lost; go on with: autoresearch resume {}\n",
               journal.path());
    return 128 + interrupting_signal();
  }
  auto content = load_journal(journal.path());
  if (!content) {
    return fail(content.failure(), kExitJournal);
  }
  fmt::print("\n");
  print_report(*content, 8080);
  fmt::print("\nJournal {}, logs of the candidates in {}\n", journal.path(), logs);
  return exit_code_of(result->verdict, result->end);
}

}  // namespace study
