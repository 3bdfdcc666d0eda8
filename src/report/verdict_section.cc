// The headline and what stands behind it. Both are worded by the last study_end alone, by way of the digest: what the
// trials look like by themselves has no say in it.

#include <fmt/format.h>

#include <cmath>

#include "src/report/sections.h"

namespace report {
namespace {

std::string confirmation_sentence(const Digest& digest) {
  const base::Json& confirmation = part(digest.end, "confirmation");
  if (!confirmation.is_object()) {
    return "";
  }
  const base::Json& goals = part(part(digest.header, "objective"), "maximize");
  std::string goal = goals.is_array() && !goals.empty() ? plain(goals.back()) : "the objective";
  int pairs = base::json_get<int>(confirmation, "pairs", 0);
  double ratio = base::json_get<double>(confirmation, "ratio", 1);
  int cold = base::json_get<int>(confirmation, "cold_pairs", 0);
  bool in_place = base::json_get<bool>(confirmation, "in_place", false);
  std::string line = in_place ? fmt::format("In {} block{} of four in place: {} in {}", pairs,
                                            pairs == 1 ? "" : "s", ratio_text(ratio), goal)
                              : fmt::format("In {} fresh launch{} of each: {} in {}", pairs,
                                            pairs == 1 ? "" : "es", ratio_text(ratio), goal);
  if (in_place && cold > 0) {
    line += fmt::format(", {} in {} fresh launch{} of each",
                        ratio_text(base::json_get<double>(confirmation, "cold_ratio", 1)), cold,
                        cold == 1 ? "" : "es");
  }
  double low = base::json_get<double>(confirmation, "ratio_low", NAN);
  double high = base::json_get<double>(confirmation, "ratio_high", NAN);
  if (std::isfinite(low) && std::isfinite(high)) {
    line += fmt::format(" (95% interval {} to {}{})", ratio_text(low), ratio_text(high),
                        low <= 1 && high >= 1 ? ": within the noise" : "");
  } else {
    line += " (too few for an interval)";
  }
  std::string decided = base::json_get<std::string>(confirmation, "decided_by", "");
  if (!decided.empty()) {
    line += fmt::format("; {} decides", printable(decided));
  }
  int missed = base::json_get<int>(confirmation, "missed", 0);
  if (missed > 0) {
    line += fmt::format("; a limit did not hold in {} of the winner's launches", missed);
  }
  return line + ".";
}

// Of a configuration that looked better and that fresh launches did not show to be.
std::string rejected_sentence(const Digest& digest) {
  const base::Json& confirmation = part(digest.end, "confirmation");
  const std::string& change = digest.trials[*digest.rejected_row].change;
  const bool gained = base::json_get<double>(confirmation, "ratio", 1) > 1;
  const bool beyond_noise = base::json_get<double>(confirmation, "ratio_low", 0) > 1;
  if (digest.verdict() == "unconfirmed") {
    if (base::json_get<int>(confirmation, "missed", 0) > 0) {
      return fmt::format(
          "Unconfirmed: {} looked better once, but not in fresh launches, and did not hold every limit in "
          "them; until more is known serve the default.",
          change);
    }
    const int pairs = base::json_get<int>(confirmation, "pairs", 0);
    const bool few = pairs < 2 || pairs < base::json_get<int>(confirmation, "planned", 0);
    // Else the reason says why, below.
    return fmt::format(
        "Unconfirmed: {} looked better once, but not in fresh launches{}; until more is known serve the "
        "default.",
        change, few ? ", too few of them to say that the default stands" : "");
  }
  return fmt::format("The default stands: {}", change) +
         (!gained        ? " looked better once, but not in fresh launches."
          : beyond_noise ? " is better in fresh launches, but by too little to count."
                         : " looked better once; what it gains in fresh launches is within the noise.");
}

std::string unconfirmed_sentence(const Digest& digest) {
  const base::Json& confirmation = part(digest.end, "confirmation");
  const std::string& change = digest.best()->change;
  if (base::json_get<int>(confirmation, "missed", 0) > 0) {
    return fmt::format(
        "{} looks better than the default, but did not hold every limit when it was launched again; "
        "unconfirmed.",
        change);
  }
  const bool decided = !base::json_get<std::string>(confirmation, "decided_by", "").empty();
  if (!decided && base::json_get<double>(confirmation, "ratio_low", 2) <= 1) {
    return fmt::format("{} may be better than the default, within the noise of fresh launches; unconfirmed.",
                       change);
  }
  if (base::json_get<bool>(confirmation, "in_place", false) &&
      base::json_get<double>(confirmation, "cold_ratio", 2) <= 1) {
    return fmt::format("{} looks better than the default in place, but not launched afresh; unconfirmed.",
                       change);
  }
  return fmt::format("{} looks better than the default; unconfirmed.", change);
}

}  // namespace

std::string verdict_section(const Page& page) {
  const Digest& digest = page.digest;
  const Row* best = digest.best();
  const Row* baseline = digest.baseline();
  const std::string reason = base::json_get<std::string>(digest.end, "reason", "");
  std::string sentence;
  Ink ink = Ink::kYellow;
  if (best == nullptr) {
    ink = Ink::kRed;
    sentence = "No configuration held every limit; see below what each trial failed on.";
  } else if (digest.rejected_row) {
    sentence = rejected_sentence(digest);
  } else if (best->change == "default") {
    sentence = digest.trials.size() < 2
                   ? "The default stands: nothing else was tried, the study ended before that."
                   : "The default stands: no other configuration tried is better and holds every limit.";
  } else if (baseline == nullptr || !baseline->feasible) {
    sentence = fmt::format(
        "{} is the best that ran: the default {}, so there is nothing to confirm it against.", best->change,
        baseline == nullptr ? "has not been measured"
        : baseline->ok      ? "does not hold every limit"
                            : "fails (" + baseline->status + ")");
  } else if (digest.verdict() == "confirmed") {
    ink = Ink::kGreen;
    sentence = fmt::format("Use {}: confirmed better than the default.", best->change);
  } else {
    sentence = unconfirmed_sentence(digest);
  }
  std::string out;
  for (const std::string& line : wrap(printable(sentence), page.width - 2)) {
    out += "  " + page.paint(ink, line) + "\n";
  }
  for (const std::string& line : wrap(confirmation_sentence(digest), page.width - 2)) {
    out += "  " + line + "\n";
  }
  if (digest.end.is_null()) {
    out += "  The study has not ended; resume goes on with it.\n";
  } else if (!base::json_get<bool>(digest.end, "finished", false)) {
    for (const std::string& line :
         wrap(printable("Stopped early (" + reason + "); resume goes on with it."), page.width - 2)) {
      out += "  " + line + "\n";
    }
  } else if ((digest.verdict() == "unconfirmed" || best == nullptr) && !reason.empty()) {
    for (const std::string& line : wrap(printable("It ended because " + reason + "."), page.width - 2)) {
      out += "  " + line + "\n";
    }
  }
  return out;
}

}  // namespace report
