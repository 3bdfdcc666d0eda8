// autoresearch resume JOURNAL: replay what is recorded through the strategy, then go on.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/report/digest.h"
#include "src/report/text.h"
#include "src/study/commands.h"
#include "src/study/effective.h"
#include "src/study/header.h"
#include "src/study/session.h"

namespace study {
namespace {

std::optional<Verdict> parse_verdict(std::string_view name) {
  for (Verdict verdict :
       {Verdict::kConfirmed, Verdict::kDefaultStands, Verdict::kUnconfirmed, Verdict::kNoFeasible}) {
    if (to_string(verdict) == name) {
      return verdict;
    }
  }
  return std::nullopt;
}

// The last record, when it says that the search finished and nothing was started after it.
const base::Json* finished_end(const JournalContent& content) {
  if (content.records.empty()) {
    return nullptr;
  }
  const base::Json& last = content.records.back();
  bool end = base::json_get<std::string>(last, "type", "") == "study_end";
  return end && base::json_get<bool>(last, "finished", false) ? &last : nullptr;
}

// What the study was measured with must be what it goes on with.
base::Result<void> same_subject(const base::Json& header, const Preflight& now) {
  const base::Json then =
      header.value("models", base::Json::array({header.value("model", base::Json::object())}));
  for (size_t i = 0; i < std::min(then.size(), now.models.size()); ++i) {
    for (const char* key : {"size", "head_hash", "slices_hash"}) {
      if (then[i].contains(key) && now.models[i].contains(key) && then[i][key] != now.models[i][key]) {
        return base::error(base::json_get<std::string>(now.models[i], "path", ""),
                           "is not the file this study began with (another size or content)",
                           "put it back, or start a new study");
      }
    }
  }
  std::string version =
      base::json_get<std::string>(header.value("binary", base::Json::object()), "version", "");
  if (version != now.program.version) {
    base::log_warn("{} is now {}, the study began with {}: older and newer trials may not compare",
                   now.program.path, now.program.version, version);
  }
  return {};
}

// A server that somebody else starts may run with other flags by now: its numbers would be another's.
base::Result<void> same_settings(const Study& study, const JournalContent& past, const ServerProgram& now) {
  base::Json then = report::part(report::part(past.header, "binary"), "settings");
  for (const base::Json* trial : past.of_type("trial_end")) {
    if (then.is_object() || now.kind != BackendKind::kUrl) {
      break;
    }
    then = report::part(*trial, "effective");  // a journal from before the header told
  }
  if (!study.model.empty() && then.is_object()) {
    then.erase("model");  // a list's first: the one that is asked for is looked for at every launch
  }
  const std::string changed =
      now.kind == BackendKind::kUrl ? changed_settings(study.space, then, now.settings) : "";
  if (!changed.empty()) {
    return base::error(
        now.path, "runs with other settings than this study began with: " + changed,
        "start it again as it was, or start a new study: old and new trials would not compare");
  }
  return {};
}

// The space text names a variable for the model or the endpoint, perhaps, and that may hold another by now: the ledger
// tells them apart, and so should the user.
void warn_of_other_model(const Study& study, const base::Json& header) {
  const base::Json& then = report::part(report::part(report::part(header, "search"), "plugin"), "llm");
  if (!then.is_object() || !study.search.plugin || !study.search.plugin->llm) {
    return;
  }
  const base::Json now = llm_json(*study.search.plugin->llm);
  for (const auto& [name, value] : now.items()) {
    if (then.contains(name) && then[name] != value) {
      base::log_warn(
          "search.llm: {} is now {}, the study began with {}; each exchange of the journal says which", name,
          report::printable(report::plain(value)), report::printable(report::plain(then[name])));
    }
  }
}

}  // namespace

int resume_command(int argc, char** argv) {
  CLI::App app("Go on with a study that was interrupted or ran out of time.", "autoresearch resume");
  std::string path, budget, until;
  int max_trials = 0, confirm = 3;
  bool quiet = false;
  app.add_option("journal", path, "the study's journal")->required();
  app.add_option("--max-trials", max_trials,
                 "stop after this many trials of the whole study (for this resume; not recorded)")
      ->check(CLI::Range(1, 100000));
  app.add_option("--budget", budget, "stop after this long, from now (default: what the study has left)");
  app.add_option("--until", until, "stop at this local time, such as 07:00 (default: as the study began)");
  app.add_option("--confirm", confirm, confirm_help())->check(CLI::Range(0, 10));
  app.add_flag("--quiet", quiet, "no progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  SessionOptions options;
  if (!budget.empty()) {
    auto seconds = base::parse_duration_s(budget);
    if (!seconds) {
      return fail(base::error("--budget", seconds.failure().what, seconds.failure().next), kExitUsage);
    }
    options.budget_s = *seconds;
  }
  if (!until.empty()) {
    if (auto valid = seconds_to_clock(until); !valid) {
      return fail(valid.failure(), kExitUsage);
    }
  }
  auto opened = Journal::open(path);
  if (!opened) {
    return fail(opened.failure(), kExitJournal);
  }
  auto& [journal, past] = *opened;
  auto study = study_of_header(past.header);
  if (!study) {
    return fail(study.failure(), kExitPreflight);
  }
  warn_of_edits(*study, past, path);
  warn_of_other_model(*study, past.header);
  const base::Json* end = finished_end(past);
  if (end != nullptr && max_trials <= study->search.max_trials) {
    fmt::print("This study has finished; --max-trials with more than {} would go on with it.\n\n",
               study->search.max_trials);
    print_report(past, 8080);
    auto verdict = parse_verdict(base::json_get<std::string>(*end, "verdict", ""));
    return exit_code_of(verdict.value_or(Verdict::kUnconfirmed), EndReason::kFinished);
  }
  auto checked = preflight(*study, path);
  if (!checked) {
    return fail(checked.failure(), kExitPreflight);
  }
  if (auto same = same_subject(past.header, *checked); !same) {
    return fail(same.failure(), kExitPreflight);
  }
  if (auto same = same_settings(*study, past, checked->program); !same) {
    return fail(same.failure(), kExitPreflight);
  }
  study->search.max_trials = max_trials > 0 ? max_trials : study->search.max_trials;
  options.max_trials = study->search.max_trials;
  options.until = until.empty() ? study->search.until : until;
  options.confirm_launches = confirm;
  options.quiet = quiet;
  if (budget.empty() && study->search.budget_s > 0) {
    double spent = 0;
    for (const base::Json* trial : past.of_type("trial_end")) {
      spent += base::json_get<double>(*trial, "t_total_s", 0);
    }
    if (spent >= study->search.budget_s) {
      return fail(base::error(path,
                              fmt::format("the study's budget of {} is used up",
                                          base::format_duration(study->search.budget_s)),
                              "give it more with --budget"),
                  kExitBudget);
    }
    options.budget_s = study->search.budget_s - spent;
  }
  size_t counted = 0;  // as max_trials counts: no skips, finals and confirmation
  for (const base::Json* ended : past.of_type("trial_end")) {
    std::string phase = base::json_get<std::string>(*ended, "phase", "");
    counted +=
        phase != kFinalPhase && phase != kConfirmPhase &&
                base::json_get<std::string>(*ended, "status", "") != to_string(Status::kSkippedPredicted)
            ? 1
            : 0;
  }
  fmt::print("Going on with {}: {} of at most {} trials are recorded\n", path, counted, options.max_trials);
  return run_session(*study, *checked, journal, past, options);
}

}  // namespace study
