// Perplexity against the default's, one line for each configuration that it was measured with.

#include <fmt/format.h>

#include <algorithm>

#include "src/report/sections.h"

namespace report {
namespace {

constexpr size_t kMostNameWidth = 44;

std::string change_text(const base::Json& perplexity) {
  const base::Json& compared = part(perplexity, "compared");
  if (!compared.is_object()) {
    return base::json_get<std::string>(perplexity, "not_compared", "");
  }
  std::string verdict = base::json_get<std::string>(compared, "verdict", "");
  std::string text =
      fmt::format("{} ({} to {}): {}", ratio_text(base::json_get<double>(compared, "ratio", 1)),
                  ratio_text(base::json_get<double>(compared, "low", 1)),
                  ratio_text(base::json_get<double>(compared, "high", 1)), verdict);
  double margin = base::json_get<double>(compared, "margin", 0);
  text += fmt::format(" at {}", ratio_text(1 + margin));
  if (auto needed = base::json_get<uint64_t>(compared, "tokens_needed", 0);
      verdict == "undecided" && needed > 0) {
    text += fmt::format(", about {} tokens would decide", needed);
  }
  if (double same = base::json_get<double>(compared, "same_top", -1); same >= 0) {
    text += fmt::format("; same first choice {:.1f}%", same * 100);
  }
  return text;
}

}  // namespace

std::string perplexity_section(const Page& page) {
  size_t width = 8;
  for (const Row& row : page.digest.trials) {
    width = row.perplexity.is_object() ? std::max(width, row.change.size()) : width;
  }
  width = std::min({width, kMostNameWidth, page.width / 2});
  std::string out, unsupported;
  for (const Row& row : page.digest.trials) {
    if (row.cited || !row.perplexity.is_object()) {
      continue;
    }
    if (!part(row.perplexity, "unsupported").is_null()) {
      unsupported = unsupported.empty() ? plain(part(row.perplexity, "unsupported")) : unsupported;
      continue;
    }
    std::string change =
        row.change == "default" ? "what the others are compared with" : change_text(row.perplexity);
    std::string label = "  " + pad_right(fit(row.change, width), width) +
                        pad_left(fmt::format("{:.4g}", base::json_get<double>(row.perplexity, "ppl", 0)), 8) +
                        "  ";
    for (const std::string& line : wrap(printable(change), page.width - width - 12)) {
      out += label + line + "\n";
      label = std::string(width + 12, ' ');
    }
  }
  if (out.empty() && !unsupported.empty()) {
    for (const std::string& line : wrap(printable("Not measured: " + unsupported + "."), page.width - 2)) {
      out += "  " + line + "\n";
    }
  }
  return out;
}

}  // namespace report
