#pragma once
// What run and resume share: checks before the first launch, the loop under signals and progress, the report
// at its end, the exit code.

#include <optional>
#include <string>
#include <vector>

#include "src/study/backends.h"
#include "src/study/journal.h"
#include "src/study/loop.h"

namespace study {

struct SessionOptions {
  double budget_s = 0;  // of this run or resume; 0 = none
  std::string until;    // "HH:MM" local time; "" = none
  int max_trials = 0;   // of the whole study
  int confirm_launches = 3;
  bool quiet = false;  // no progress, report only
};

// What would ruin a night, found before it begins: no model or one that is cut off, no server, an axis that it does
// not take, no key, no room for the journal. Every problem at once.
struct Preflight {
  ServerProgram program;
  base::Json model;                   // model_identity() of the default configuration's
  std::vector<base::Json> models;     // of every value of the axis `model`; else that one
  std::vector<std::string> warnings;  // shown as the run begins
};
base::Result<Preflight> preflight(const Study& study, const std::string& journal_path);

// Of --confirm: how many launches finals and confirmation may take.
std::string confirm_help();

// Seconds from now until the next HH:MM of local time. Error: not a time.
base::Result<double> seconds_to_clock(const std::string& clock_time);

// Warns of every trial whose record contradicts itself, by its line.
void warn_of_edits(const Study& study, const JournalContent& content, const std::string& path);

// "runs/x.jsonl" -> "runs/x.logs": where the candidates' logs go.
std::string log_directory_of(const std::string& journal_path);

// Runs the loop on an open journal, prints the report, returns the exit code.
int run_session(const Study& study, const Preflight& checked, Journal& journal, const JournalContent& past,
                const SessionOptions& options);

// The report of a journal's content on stdout, sized and coloured for it.
// False: it could not be written (a full disk behind a redirection).
bool print_report(const JournalContent& content, int port);
// The exit code of a study that has ended, by its last study_end.
int exit_code_of(Verdict verdict, EndReason end);

}  // namespace study
