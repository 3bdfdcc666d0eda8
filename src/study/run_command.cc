// autoresearch run --space FILE: a new study, from its space file to the report.

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>

#include "src/base/units.h"
#include "src/os/files.h"
#include "src/study/commands.h"
#include "src/study/header.h"
#include "src/study/session.h"
#include "src/study/warm_start.h"

namespace study {
namespace {

std::string default_journal(const Study& study) {
  return fmt::format("runs/{}-{:%Y%m%d-%H%M%S}.jsonl", study.name, fmt::localtime(std::time(nullptr)));
}

}  // namespace

int run_command(int argc, char** argv) {
  CLI::App app("Run a study: launch, measure and compare server configurations.", "autoresearch run");
  std::string space_path, out, budget, until, warm;
  int max_trials = 0, confirm = 3;
  bool quiet = false;
  app.add_option("--space", space_path, "space file (YAML)")->required();
  app.add_option("--out", out, "journal to write (default: runs/STUDY-TIME.jsonl)");
  app.add_option("--max-trials", max_trials, "stop after this many trials")->check(CLI::Range(1, 100000));
  app.add_option("--budget", budget, "stop after this long, such as 90m or 8h");
  app.add_option("--until", until, "stop at this local time, such as 07:00");
  app.add_option("--confirm", confirm, confirm_help())->check(CLI::Range(0, 10));
  app.add_option(
      "--warm-start", warm,
      "journal of an earlier study of this model on this machine: what it measured is known to the\n"
      "search, and launched again only where it would win; refused where model or host differ");
  app.add_flag("--quiet", quiet, "no progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }

  auto loaded = load_space_file(space_path);
  if (const auto* errors = std::get_if<SpaceFileErrors>(&loaded)) {
    fmt::print(stderr, "{}\n", errors->to_string());
    return kExitUsage;
  }
  if (app.count("--warm-start") > 0 && warm.empty()) {
    return fail(
        base::error("--warm-start", "the name of the journal is empty", "give it, or leave the option out"),
        kExitUsage);
  }
  Study study = std::get<Study>(std::move(loaded));
  study.search.max_trials = max_trials > 0 ? max_trials : study.search.max_trials;
  if (!until.empty()) {
    study.search.until = until;
  }
  if (!budget.empty()) {
    auto seconds = base::parse_duration_s(budget);
    if (!seconds) {
      return fail(base::error("--budget", seconds.failure().what, seconds.failure().next), kExitUsage);
    }
    study.search.budget_s = *seconds;
  }
  SessionOptions options;
  options.max_trials = study.search.max_trials;
  options.budget_s = study.search.budget_s;
  options.until = study.search.until;
  options.confirm_launches = confirm;
  options.quiet = quiet;
  if (!options.until.empty()) {
    if (auto valid = seconds_to_clock(options.until); !valid) {
      return fail(valid.failure(), kExitUsage);
    }
  }
  out = out.empty() ? default_journal(study) : out;

  auto checked = preflight(study, out);
  if (!checked) {
    return fail(checked.failure(), kExitPreflight);
  }
  base::Json header = study_header(study, checked->program, checked->model, checked->models);
  if (!warm.empty()) {
    auto earlier = load_journal(warm);
    if (earlier) {
      if (auto its = study_of_header(earlier->header)) {
        warn_of_edits(*its, *earlier, warm);
      }
    }
    auto known =
        earlier ? warm_start(study, header, *earlier, warm) : base::Result<base::Json>(earlier.failure());
    if (!known) {
      return fail(known.failure(), kExitPreflight);
    }
    fmt::print("Warm start: {}\n", warm_start_text(*known));
    header["warm_start"] = std::move(*known);
  }
  bool locked = false;
  auto journal = Journal::create(out, header, &locked);
  if (!journal) {
    return fail(journal.failure(), locked ? kExitJournal : kExitPreflight);
  }
  fmt::print("Study {}: {} axes, at most {} trials; journal {}\n", study.name, study.space.axes.size(),
             options.max_trials, out);
  JournalContent fresh;
  fresh.header = std::move(header);
  return run_session(study, *checked, *journal, fresh, options);
}

}  // namespace study
