#include "src/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/units.h"
#include "src/report/digest.h"
#include "src/report/findings.h"
#include "src/report/sections.h"

namespace report {
namespace {

void heading(const Page& page, std::string& out, std::string_view title) {
  out += "\n" + page.paint(Ink::kBold, title) + "\n";
}

std::string text_of(const base::Json& object, const char* key) {
  return printable(base::json_get<std::string>(object, key, ""));
}

void fact(const Page& page, std::string& out, std::string_view name, const std::string& value) {
  if (value.empty()) {
    return;
  }
  bool first = true;
  for (const std::string& line : wrap(value, page.width - 10)) {
    out += "  " + page.paint(Ink::kDim, pad_right(first ? name : "", 8)) + line + "\n";
    first = false;
  }
}

std::string joined(const base::Json& list, std::string_view separator) {
  std::string out;
  if (list.is_array()) {
    for (const base::Json& item : list) {
      out += (out.empty() ? "" : std::string(separator)) + plain(item);
    }
  }
  return out;
}

// "" where there was none.
std::string plugin_text(const PluginUse& use) {
  if (use.exchanges + use.open == 0) {
    return "";
  }
  std::string text =
      fmt::format("{} proposed {} of the trials in {} exchange{} ({}", printable(use.name), use.trials,
                  use.exchanges, use.exchanges == 1 ? "" : "s", base::format_duration(use.seconds));
  text += use.tokens > 0 ? fmt::format(", {:.0f} tokens", use.tokens) : "";
  text += use.usd > 0 ? fmt::format(", ${:.4f}", use.usd) : "";
  text += ")";
  if (use.skipped > 0) {
    text += fmt::format("; {} more {} skipped, bound to run out of memory", use.skipped,
                        use.skipped == 1 ? "was" : "were");
  }
  if (use.open > 0) {
    text += fmt::format("; {} more cut short or still under way, counted as the most that {} may have cost",
                        use.open, use.open == 1 ? "it" : "they");
  }
  if (use.fruitless > 0) {
    text += fmt::format("; {} came to nothing, the last: {}", use.fruitless, printable(use.last_fault));
  }
  return text;
}

// "" of a study that began cold.
std::string warm_start_text(const Digest& digest) {
  const base::Json& warm = part(digest.header, "warm_start");
  if (!warm.is_object()) {
    return "";
  }
  const auto again = std::count_if(digest.trials.begin(), digest.trials.end(),
                                   [](const Row& row) { return row.phase == "check"; });
  const size_t known = part(warm, "known").size();
  std::string text = fmt::format("{} configuration{} from study {} of {}, {} of them launched again", known,
                                 known == 1 ? "" : "s", printable(text_of(warm, "study_id")),
                                 printable(text_of(warm, "started")), again);
  const std::string then = text_of(warm, "version"), now = text_of(part(digest.header, "binary"), "version");
  return then == now
             ? text
             : text + fmt::format("; measured with another build of the server ({})", printable(then));
}

void head_section(const Page& page, std::string& out) {
  const base::Json& header = page.digest.header;
  size_t trials = page.digest.trials.size();
  size_t again = page.digest.anchors.size() + page.digest.finals.size() + page.digest.repeats.size();
  std::string more;
  if (again > 0) {
    more += fmt::format(", {} repeated", again);
  }
  if (!page.digest.confirmations.empty()) {
    more += fmt::format(" and {} confirmation runs", page.digest.confirmations.size());
  }
  out += page.paint(Ink::kBold, fmt::format("Study {}", text_of(header, "study"))) +
         fmt::format("  {} trial{}{} in {}\n", trials, trials == 1 ? "" : "s", more,
                     base::format_duration(page.digest.total_s));
  const base::Json& model = part(header, "model");
  std::string name = text_of(model, "name");
  std::string about = text_of(model, "path");
  if (uint64_t size = base::json_get<uint64_t>(model, "size", 0); size > 0) {
    about += ", " + base::format_bytes(size);
  }
  if (!name.empty()) {
    about += fmt::format(" ({}{}{})", name, text_of(model, "architecture").empty() ? "" : ", ",
                         text_of(model, "architecture"));
  }
  fact(page, out, "model", about);
  const base::Json& binary = part(header, "binary");
  std::string version = text_of(binary, "version");
  if (version.starts_with("version: ")) {
    version.erase(0, 9);
  }
  fact(page, out, "server",
       text_of(binary, "kind") + " " + text_of(binary, "path") +
           (version.empty() ? "" : " (" + version + ")"));
  const base::Json& host = part(header, "host");
  std::string machine = fmt::format("{}: {}, {} CPUs, {}", text_of(host, "hostname"),
                                    text_of(host, "cpu_model"), base::json_get<int>(host, "logical_cpus", 0),
                                    base::format_bytes(base::json_get<uint64_t>(host, "memory_bytes", 0)));
  if (const base::Json& gpus = part(host, "gpus"); !gpus.empty()) {
    machine += ", " + joined(gpus, ", ");
  }
  fact(page, out, "host", machine);
  const base::Json& goal = part(header, "objective");
  const bool pareto = base::json_get<bool>(goal, "pareto", false);
  std::string wanted =
      (pareto ? "the front of " : "maximize ") + joined(part(goal, "maximize"), pareto ? " and " : ", then ");
  std::string limits = joined(part(goal, "subject_to"), "; ");
  fact(page, out, "goal", wanted + (limits.empty() ? "" : "; subject to " + limits));
  fact(page, out, "known", warm_start_text(page.digest));
  fact(page, out, "plugin", plugin_text(page.digest.plugin));
  fact(page, out, "started", text_of(header, "started"));
}

// The trial's port becomes the user's own, and the prompt cache, which is off only so that no measurement
// helps the next, stays as the server has it. Everything else is what was measured.
std::vector<std::string> serving_argv(const std::vector<std::string>& argv, int port) {
  std::vector<std::string> out = argv;
  std::erase(out, "--no-cache-prompt");
  for (size_t i = 0; i + 1 < out.size(); ++i) {
    if (out[i] == "--port") {
      out[i + 1] = std::to_string(port);
    }
  }
  return out;
}

// One flag and its value a line, ready to paste; variables first.
std::string command_lines(const std::vector<std::string>& env, const std::vector<std::string>& argv) {
  std::string out = env.empty() ? "" : "  env";
  for (const std::string& variable : env) {
    out += " " + shell_word(variable);
  }
  out += env.empty() ? "" : " \\\n    ";
  for (size_t i = 0; i < argv.size(); ++i) {
    bool new_line = i > 0 && argv[i].starts_with("--") && argv[i].size() > 2;
    out += i == 0 ? "  " : new_line ? " \\\n      " : " ";
    out += shell_word(argv[i]);
  }
  return out + "\n";
}

void serve_section(const Page& page, std::string& out) {
  const Row* best = page.digest.best();
  if (best == nullptr || best->argv.empty()) {
    return;
  }
  heading(page, out, best->change == "default" ? "Serve it (the default)" : "Serve it");
  out += command_lines(best->env, serving_argv(best->argv, page.options.port));
}

void failure_section(const Page& page, std::string& out) {
  bool any = page.digest.interrupted > 0;
  for (const Row& row : page.digest.trials) {
    any = any || !row.ok || !row.violations.empty();
  }
  if (!any) {
    return;
  }
  heading(page, out, "What did not hold");
  for (const Row& row : page.digest.trials) {
    std::string why = row.ok ? "" : row.status + ": " + row.reason;
    for (const std::string& violation : row.violations) {
      why += (why.empty() ? "" : "; ") + violation;
    }
    if (why.empty()) {
      continue;
    }
    std::string label = fmt::format("{:>4}  ", row.trial_id);
    for (const std::string& line : wrap(printable(why), page.width - 6)) {
      out += page.paint(row.ok ? Ink::kYellow : Ink::kRed, label) + line + "\n";
      label = "      ";
    }
  }
  if (page.digest.interrupted > 0) {
    out += fmt::format("      {} configuration{} interrupted; resume runs {} again\n",
                       page.digest.interrupted, page.digest.interrupted == 1 ? " was" : "s were",
                       page.digest.interrupted == 1 ? "it" : "them");
  }
}

void findings_section(const Page& page, std::string& out) {
  struct Group {
    const char* title;
    Finding::Kind kind;
    Ink ink;
  };
  constexpr Group kGroups[] = {{"Costs nothing", Finding::Kind::kFree, Ink::kGreen},
                               {"Costs something", Finding::Kind::kCost, Ink::kPlain},
                               {"Not clear", Finding::Kind::kUnclear, Ink::kYellow},
                               {"Anomalies", Finding::Kind::kAnomaly, Ink::kRed},
                               {"Memory", Finding::Kind::kMemory, Ink::kPlain}};
  std::vector<Finding> all = findings(page.digest);
  for (const Group& group : kGroups) {
    bool first = true;
    for (const Finding& finding : all) {
      if (finding.kind != group.kind) {
        continue;
      }
      if (first) {
        heading(page, out, group.title);
      }
      first = false;
      const char* bullet = "  - ";
      for (const std::string& line : wrap(printable(finding.text), page.width - 4)) {
        out += bullet + page.paint(group.ink, line) + "\n";
        bullet = "    ";
      }
    }
  }
}

}  // namespace

std::string render(const base::Json& header, std::span<const base::Json> records,
                   const ReportOptions& options) {
  Digest contents = digest(header, records);
  Page page{contents, options, Paint(options.colour), static_cast<size_t>(std::max(options.width, 72))};
  std::string out;
  head_section(page, out);
  if (contents.trials.empty()) {
    return out + "\nNo trial has ended yet.\n";
  }
  heading(page, out, "Verdict");
  out += verdict_section(page);
  findings_section(page, out);
  heading(page, out, "Trials");
  out += trials_section(page);
  std::string front = front_section(page);
  if (!front.empty()) {
    heading(page, out, "Front (nothing that was launched is better in one entry and no worse in the others)");
    out += front;
  }
  std::string repeats = repeats_section(page);
  if (!repeats.empty()) {
    heading(page, out, "Launched again (decode, tokens per second)");
    out += repeats;
  }
  failure_section(page, out);
  std::string axes = axes_section(page);
  if (!axes.empty()) {
    heading(page, out, "What each axis did (all other axes at their default)");
    out += axes;
  }
  std::string perplexity = perplexity_section(page);
  if (!perplexity.empty()) {
    heading(page, out, "Perplexity");
    out += perplexity;
  }
  if (const Row* best = contents.best(); best != nullptr && best->change != "default") {
    heading(page, out, "Best configuration");
    out += best_section(page);
  }
  serve_section(page, out);
  return out;
}

}  // namespace report
