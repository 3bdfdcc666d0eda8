#include "src/report/sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

#include "src/base/units.h"

namespace report {
namespace {

struct Column {
  const char* title;
  size_t width;
};
// The number columns of a trial's row, in order.
constexpr std::array<Column, 6> kNumbers = {
    {{"decode", 7}, {"prefill", 7}, {"TTFT", 7}, {"quality", 7}, {"needle", 6}, {"memory", 8}}};
constexpr size_t kNumbersWidth = 7 + 7 + 7 + 7 + 6 + 8 + 5;

std::string memory(double bytes) {
  if (!(bytes > 0)) {
    return "-";
  }
  double gib = bytes / (1 << 30);
  return gib >= 1 ? fmt::format("{:.1f} GiB", gib) : fmt::format("{:.0f} MiB", bytes / (1 << 20));
}

std::string milliseconds(const std::optional<double>& ms) {
  return ms ? base::format_duration(*ms / 1000) : "-";
}

std::string numbers(const Row& row) {
  std::array<std::string, 6> cells = {rate(row.metric("decode_tps")),       rate(row.metric("prefill_tps")),
                                      milliseconds(row.metric("ttft_ms")),  percent(row.metric("quality")),
                                      percent(row.metric("needle_recall")), memory(row.rss_bytes)};
  std::string out;
  for (size_t i = 0; i < cells.size(); ++i) {
    out += (i == 0 ? "" : " ") + pad_left(cells[i], kNumbers[i].width);
  }
  return out;
}

// Rows that differ from the default in this axis alone, by value; the default itself included.
const Row* row_with(const Digest& digest, const AxisInfo& axis, const base::Json& value) {
  const Row* baseline = digest.baseline();
  for (const Row& row : digest.trials) {
    bool same = part(row.params, axis.name) == value;
    for (const AxisInfo& other : digest.axes) {
      same = same &&
             (other.name == axis.name || part(row.params, other.name) == part(baseline->params, other.name));
    }
    if (same) {
      return &row;
    }
  }
  return nullptr;
}

}  // namespace

std::string rate(const std::optional<double>& value) {
  if (!value) {
    return "-";
  }
  return *value >= 1000 ? fmt::format("{:.0f}", *value) : fmt::format("{:.1f}", *value);
}

std::string ratio_text(double ratio) {
  return fmt::format("{:+.1f}%", (ratio - 1) * 100);
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.0f}%", *share * 100) : "-";
}

std::string shell_word(std::string_view word) {
  bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("-_./:=,+@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) {
    return std::string(word);
  }
  std::string out = "'";
  for (char c : word) {
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out + "'";
}

std::string trials_section(const Page& page) {
  size_t phase_width = 7;
  size_t change_width = page.width - 8 - phase_width - 1 - kNumbersWidth - 1;
  std::string out = page.paint(Ink::kDim, "    #   " + pad_right("phase", phase_width) + " " +
                                              pad_right("differs from the default in", change_width) + " ");
  std::string titles;
  for (size_t i = 0; i < kNumbers.size(); ++i) {
    titles += (i == 0 ? "" : " ") + pad_left(kNumbers[i].title, kNumbers[i].width);
  }
  out += page.paint(Ink::kDim, titles) + "\n";
  for (const Row& row : page.digest.trials) {
    bool best = page.digest.best() == &row;
    std::string mark = best ? "★" : !row.ok ? "✗" : row.feasible ? " " : "!";
    Ink ink = best ? Ink::kGreen : !row.ok ? Ink::kRed : row.feasible ? Ink::kPlain : Ink::kDim;
    auto change = wrap(row.change, change_width);
    std::string first = change.empty() ? "" : change[0];
    std::string line = fmt::format("{:>5} {} ", row.trial_id, mark) +
                       pad_right(fit(row.phase, phase_width), phase_width) + " " +
                       pad_right(fit(first, change_width), change_width) + " ";
    line += row.ok ? numbers(row) : fit(printable(row.status + ": " + row.reason), kNumbersWidth);
    out += page.paint(ink, line) + "\n";
    for (size_t i = 1; i < change.size(); ++i) {
      out += page.paint(ink, std::string(8 + phase_width + 1, ' ') + fit(change[i], change_width)) + "\n";
    }
  }
  return out +
         page.paint(Ink::kDim,
                    "  ★ best   ! a limit is not held   ✗ failed   decode, prefill: tokens per second") +
         "\n";
}

std::string axes_section(const Page& page) {
  const Row* baseline = page.digest.baseline();
  if (baseline == nullptr || !baseline->ok) {
    return "";
  }
  double reference = baseline->typical("decode_tps").value_or(NAN);
  std::string out;
  for (const AxisInfo& axis : page.digest.axes) {
    std::string lines;
    int measured = 0;
    for (const base::Json& value : axis.values) {
      const Row* row = row_with(page.digest, axis, value);
      if (row == nullptr) {
        continue;
      }
      bool is_default = value == axis.default_value;
      measured += is_default ? 0 : 1;
      std::string label = plain(value) + (is_default ? " (default)" : "");
      std::string line = "    " + pad_right(fit(label, 20), 20) + " ";
      if (!row->ok) {
        lines += line +
                 page.paint(Ink::kRed, fit(printable(row->status + ": " + row->reason), page.width - 26)) +
                 "\n";
        continue;
      }
      double ratio = row->typical("decode_tps").value_or(NAN) / reference;
      std::string change = std::isfinite(ratio) && !is_default ? ratio_text(ratio) : "";
      Ink ink = !std::isfinite(ratio) || std::abs(ratio - 1) < 0.02 ? Ink::kPlain
                : ratio > 1                                         ? Ink::kGreen
                                                                    : Ink::kRed;
      line += pad_left(rate(row->typical("decode_tps")), 8) + " tok/s " +
              page.paint(ink, pad_left(change, 8)) + "  ";
      line += page.paint(Ink::kCyan, pad_right(bar(ratio / 2, 20), 20)) + "  prefill " +
              pad_left(rate(row->typical("prefill_tps")), 6) + "  quality " +
              pad_left(percent(row->metric("quality")), 4);
      lines += line + "\n";
    }
    if (measured > 0) {
      out += "  " + page.paint(Ink::kBold, axis.name) + "\n" + lines;
    }
  }
  return out;
}

std::string repeats_section(const Page& page) {
  struct Group {
    const char* label;
    const std::vector<Row>& rows;
  };
  const Group groups[] = {
      {"anchor", page.digest.anchors}, {"final", page.digest.finals}, {"confirm", page.digest.confirmations}};
  std::string out;
  for (const Group& group : groups) {
    std::vector<std::string> changes;
    for (const Row& row : group.rows) {
      if (std::find(changes.begin(), changes.end(), row.change) == changes.end()) {
        changes.push_back(row.change);
      }
    }
    for (const std::string& change : changes) {
      std::string values;
      for (const Row& row : group.rows) {
        if (row.change == change) {
          values += (values.empty() ? "" : " ") + (row.ok ? rate(row.metric("decode_tps")) : row.status);
        }
      }
      std::string label = "  " + pad_right(group.label, 8);
      for (const std::string& line : wrap(printable(change + ": " + values), page.width - 10)) {
        out += label + line + "\n";
        label = std::string(10, ' ');
      }
    }
  }
  return out;
}

std::string best_section(const Page& page) {
  const Row& best = *page.digest.best();
  const Row* baseline = page.digest.baseline();
  std::string out;
  for (const AxisInfo& axis : page.digest.axes) {
    const base::Json& value = part(best.params, axis.name);
    if (!value.is_null() && value != axis.default_value) {
      out += fmt::format("  {} {}  (default {})\n", pad_right(axis.name, 18), plain(value),
                         plain(axis.default_value));
    }
  }
  struct Line {
    const char *metric, *label;
  };
  constexpr std::array<Line, 6> kLines = {{{"decode_tps", "decode"},
                                           {"decode_tps_at_half_context", "decode at half context"},
                                           {"prefill_tps", "prefill"},
                                           {"quality", "quality"},
                                           {"needle_recall", "needle recall"},
                                           {"ppl", "perplexity"}}};
  out += "\n";
  for (const Line& line : kLines) {
    auto value = best.typical(line.metric);
    auto before = baseline == nullptr ? std::nullopt : baseline->typical(line.metric);
    if (!value) {
      continue;
    }
    const std::string_view metric = line.metric;
    bool share = metric == "quality" || metric == "needle_recall";
    auto written = [&](const std::optional<double>& number) {
      return metric == "ppl" ? fmt::format("{:.4g}", number.value_or(NAN))
             : share         ? percent(number)
                             : rate(number);
    };
    std::string text = written(value) + (share || metric == "ppl" ? "" : " tok/s");
    if (double usual = before.value_or(0); usual > 0) {
      text += share ? fmt::format("  (default {})", written(before))
                    : fmt::format("  (default {}, {})", written(before), ratio_text(*value / usual));
    }
    out += fmt::format("  {} {}\n", pad_right(line.label, 24), text);
  }
  if (best.launches + best.changes > 1) {
    const auto counted = [](int n, const char* one, const char* more) {
      return n == 0 ? std::string() : fmt::format("{} {}", n, n == 1 ? one : more);
    };
    const std::string launches = counted(best.launches, "launch", "launches");
    const std::string changes = counted(best.changes, "change in place", "changes in place");
    out += fmt::format("  (medians of {}{}{})\n", launches,
                       launches.empty() || changes.empty() ? "" : " and ", changes);
  }
  return out;
}

}  // namespace report
