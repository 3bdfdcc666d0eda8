// autoresearch report JOURNAL: what a study found, also while it runs.

#include <CLI/CLI.hpp>

#include "src/study/commands.h"
#include "src/study/session.h"
#include "src/study/study.h"

namespace study {

int report_command(int argc, char** argv) {
  CLI::App app("Show what a study found.", "autoresearch report");
  std::string path;
  int port = 8080;
  app.add_option("journal", path, "the study's journal")->required();
  app.add_option("--port", port, "port of the command line that serves the best configuration (default 8080)")
      ->check(CLI::Range(1, 65535));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  auto content = load_journal(path);
  if (!content) {
    return fail(content.failure(), kExitJournal);
  }
  // Where the space no longer parses here (a variable it names is not set) the report needs none.
  const auto space = parse_space_file(base::json_get<std::string>(content->header, "space", ""),
                                      base::json_get<std::string>(content->header, "space_path", ""),
                                      SpaceOrigin::kRecorded);
  if (const auto* study = std::get_if<Study>(&space)) {
    warn_of_edits(*study, *content, path);
  }
  if (!print_report(*content, port)) {
    return fail(base::error("standard output", "the report could not be written", "check the disk behind it"),
                kExitPreflight);
  }
  return 0;
}

}  // namespace study
