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
#include "src/os/service.h"
#include "src/report/report.h"
#include "src/study/clock.h"
#include "src/study/commands.h"
#include "src/study/in_place.h"
#include "src/study/interrupt.h"
#include "src/study/memory_estimate.h"
#include "src/study/plugin_site.h"
#include "src/study/progress.h"
#include "src/study/record.h"

namespace study {
namespace {

namespace fs = std::filesystem;
}  // namespace

int fail(const base::Error& error, ExitCode code) {
  fmt::print(stderr, "error: {}\n", error.to_string());
  return code;
}

base::Result<double> seconds_to_clock(const std::string& clock_time) {
  auto seconds = seconds_until(clock_time, std::time(nullptr));
  if (!seconds) {
    return base::error("until", fmt::format("'{}' is not a time of day", clock_time),
                       "write HH:MM, such as 07:00");
  }
  return *seconds;
}

std::string confirm_help() {
  int finals = 0;
  for (int wave : kFinalWaves) {
    finals += wave;
  }
  return fmt::format(  // each line as the help shows it
      "fresh launches of winner and default each at the end (default 3):\n"
      "at least so many, up to {} where noise asks for them (in place:\n"
      "{} to {} blocks of four changes, and {} launches each), after up to\n"
      "{} launches of finals; under {}: exactly so many, which confirm\n"
      "nothing; 0: neither. `autoresearch plan` tells what they cost",
      kMostPairs, kLeastBlocks, kMostPairs, kColdLaunches, finals, kLeastPairs);
}

std::string log_directory_of(const std::string& journal_path) {
  std::string stem =
      journal_path.ends_with(".jsonl") ? journal_path.substr(0, journal_path.size() - 6) : journal_path;
  return stem + ".logs";
}

void warn_of_edits(const Study& study, const JournalContent& content, const std::string& path) {
  constexpr size_t kFirstRecord = 2;  // the line after the header
  for (size_t i = 0; i < content.records.size(); ++i) {
    const base::Json& record = content.records[i];
    if (base::json_get<std::string>(record, "type", "") != "trial_end") {
      continue;
    }
    if (const std::string why = contradiction(study, record); !why.empty()) {
      base::log_warn(
          "{}:{}: trial {} does not agree with itself: {}; the line was edited, or written by another "
          "version",
          path, i + kFirstRecord, base::json_get<int>(record, "trial_id", 0), why);
    }
  }
}

bool print_report(const JournalContent& content, int port) {
  report::ReportOptions options;
  options.colour = stdout_is_terminal();
  options.width = std::min(terminal_width(), 120);
  options.port = port;
  std::fputs(report::render(content.header, content.records, options).c_str(), stdout);
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

int exit_code_of(Verdict verdict, EndReason end) {
  if (end == EndReason::kMemory) {
    return kExitMemory;
  }
  if (end == EndReason::kServerLost) {
    return kExitPreflight;  // as a resume would end before it is mended
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
  loop.cannot_fit = make_cannot_fit(study);
  loop.anchor_every = study.search.anchor_every;
  loop.min_headroom_bytes = static_cast<uint64_t>(study.probes.min_headroom_gib * (1 << 30));
  // As it was when the study began: the strategy must plan the same again.
  loop.in_place = recorded_in_place_axes(past.header);
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
  for (const std::string& warning : checked.warnings) {
    base::log_warn("{}", warning);
  }
  install_interrupt_handlers();  // before the service stops, which may take minutes: the run then ends in order
  std::optional<os::HeldService> held;  // starts the unit again on every way out of here
  if (!study.service.empty()) {
    auto stopped = os::HeldService::stop(study.service);
    if (!stopped) {
      return fail(stopped.failure(), kExitPreflight);
    }
    held = std::move(*stopped);
  }
  Progress progress(study, stdout_is_terminal() && !options.quiet);
  ServerTrialRunner runner(study, checked.program, fs::absolute(logs).string(),
                           [&](std::string_view doing) { progress.doing(doing); });
  std::optional<PluginSite> plugin;
  if (study.search.plugin) {
    plugin.emplace(*study.search.plugin, fs::absolute(logs).string(), secrets_of(study));
    loop.ask_plugin = [&](int exchange, const std::string& request, double patience_s) {
      return plugin->ask(exchange, request, patience_s);
    };
  }
  auto result = run_loop(study, past, journal, runner, progress, loop, os::boot_id());
  plugin.reset();
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
  if (result->end == EndReason::kServerLost) {
    std::fflush(stdout);
    fmt::print(stderr,
               "error: {}\n       Nothing that was finished is lost. Once it serves again, go on with: "
               "autoresearch resume {}\n",
               result->reason, journal.path());
  }
  return exit_code_of(result->verdict, result->end);
}

}  // namespace study
