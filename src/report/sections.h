#pragma once
// The parts of a terminal report, each a function from the digest to lines of text.

#include <string>

#include "src/report/digest.h"
#include "src/report/report.h"
#include "src/report/text.h"

namespace report {

struct Page {
  const Digest& digest;
  const ReportOptions& options;
  Paint paint;
  size_t width;
};

std::string verdict_section(const Page& page);
std::string trials_section(const Page& page);
std::string axes_section(const Page& page);
std::string repeats_section(const Page& page);  // "" when nothing was launched again
std::string front_section(const Page& page);    // "" where the entries of the objective have an order
std::string best_section(const Page& page);
std::string perplexity_section(const Page& page);  // "" when it was not asked for

// A word of a POSIX shell command, quoted where needed.
std::string shell_word(std::string_view word);

// "123.4", "45678", "-" when absent: four significant digits for a column of speeds.
std::string rate(const std::optional<double>& value);
std::string percent(const std::optional<double>& share);
std::string ratio_text(double ratio);  // 0.983 -> "-1.7%"

}  // namespace report
