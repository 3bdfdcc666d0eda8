// The front of an objective whose entries are of equal rank (`pareto:`).

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/report/sections.h"

namespace report {
namespace {

bool beats(const std::vector<double>& a, const std::vector<double>& b) {
  bool better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) {
      return false;
    }
    better = better || a[i] > b[i];
  }
  return better;
}

}  // namespace

std::string front_section(const Page& page) {
  const base::Json& goal = part(page.digest.header, "objective");
  const base::Json& entries = part(goal, "maximize");
  if (!base::json_get<bool>(goal, "pareto", false) || !entries.is_array()) {
    return "";
  }
  std::vector<const Row*> rows;
  for (const Row& row : page.digest.trials) {
    const bool whole =
        row.objective.size() == entries.size() &&
        std::all_of(row.objective.begin(), row.objective.end(), [](double x) { return std::isfinite(x); });
    if (row.feasible && whole) {
      rows.push_back(&row);
    }
  }
  std::vector<const Row*> front;
  for (const Row* row : rows) {
    if (std::none_of(rows.begin(), rows.end(),
                     [&](const Row* other) { return beats(other->objective, row->objective); })) {
      front.push_back(row);
    }
  }
  std::stable_sort(front.begin(), front.end(),
                   [](const Row* a, const Row* b) { return a->objective > b->objective; });
  std::string out;
  for (const Row* row : front) {
    std::string values;
    for (size_t i = 0; i < row->objective.size(); ++i) {
      values += fmt::format("{}{} {:.4g}", i == 0 ? "" : ", ", plain(entries[i]), row->objective[i]);
    }
    std::string label = pad_left(std::to_string(row->trial_id), 5) + " ";
    for (const std::string& line : wrap(printable(values + ": " + row->change), page.width - 6)) {
      out += label + line + "\n";
      label = std::string(6, ' ');
    }
  }
  return out;
}

}  // namespace report
