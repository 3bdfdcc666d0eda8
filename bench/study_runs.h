#pragma once
// What the benchmarks of the driver share: whole runs of it, their journals, and a report of results.

#include <string>
#include <vector>

#include "tests/e2e/process.h"

namespace bench {

using base::Json;

// Starts `autoresearch ARGS...` and waits for it. Ends the benchmark (exit code 1, with the driver's output) when it
// cannot be started, takes longer than timeout_s, or ends in a code that is not among `allowed`.
e2e::Result run_driver(e2e::Process& process, const std::vector<std::string>& args, double timeout_s,
                       const std::vector<int>& allowed);

// Records of a journal by type ("trial_end"), in order; "" for all. Lines that are no JSON end the benchmark.
std::vector<Json> records(const std::string& journal, const std::string& type);

// What must not depend on interruptions: per trial what was tried, how it ended and what was answered.
std::vector<std::string> results(const std::string& journal);

// Prints as it goes and keeps what it printed, for results/NAME.md.
class Report {
 public:
  // The title, then host, command and commit.
  Report(const std::string& title, int argc, char** argv);
  void line(const std::string& text);
  // False, with a message, when the file cannot be written; an empty path writes nothing.
  bool save(const std::string& path) const;

 private:
  std::string text_;
};

}  // namespace bench
