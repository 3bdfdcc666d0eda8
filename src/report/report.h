#pragma once
// A journal's records as a report for the terminal. Pure: text out of records, no file, clock or terminal.

#include <span>
#include <string>

#include "src/base/json.h"

namespace report {

struct ReportOptions {
  bool colour = false;  // ANSI colours: only where a terminal shows them
  int width = 100;      // columns; at least 72
  int port = 8080;      // of the command line that serves the best configuration
};

// `header` is the journal's study record, `records` everything after it. Records it does not know are
// skipped; fields that are missing show as "-".
std::string render(const base::Json& header, std::span<const base::Json> records,
                   const ReportOptions& options);

}  // namespace report
