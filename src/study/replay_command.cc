// autoresearch replay GRID.jsonl: how soon each strategy would have found the best of a grid that was measured once.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "search/replay.h"
#include "src/base/suggest.h"
#include "src/base/version.h"
#include "src/os/files.h"
#include "src/report/text.h"
#include "src/study/commands.h"
#include "src/study/in_place.h"
#include "src/study/plan.h"
#include "src/study/recorded_grid.h"

namespace study {
namespace {

struct Options {
  std::string grid, out;
  std::vector<std::string> strategies = {"two-phase", "model-based", "tpe", "random"};
  int seeds = 50;
  std::string noise = "5%", drift = "0%";
  int max_trials = 60;
  bool json = false;
};

struct Played {
  std::string strategy;
  search::ReplaySummary sum;
};

// "5%" or 0.05.
base::Result<double> parse_share(const std::string& name, const std::string& text, double most) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  const std::string_view rest = end;
  value = rest == "%" ? value / 100 : value;
  if (end == text.c_str() || (rest != "%" && !rest.empty()) || !(value >= 0 && value <= most)) {
    return base::error(name, fmt::format("'{}' is not a share from 0% to {:.0f}%", text, most * 100),
                       "write 5%");
  }
  return value;
}

std::string trials(const std::optional<double>& value, int most) {
  return value ? fmt::format("{:g}", *value) : fmt::format(">{}", most);
}

std::string percent(double share) {
  return fmt::format("{:.0f}%", share * 100);
}

class Table {
 public:
  Table(const Study& study, const search::RecordedGrid& grid, const base::Json& header,
        const Options& options, const search::ReplayOptions& replay)
      : study_(study),
        grid_(grid),
        header_(header),
        options_(options),
        replay_(replay),
        census_(grid.census()) {}

  // What the grid holds, a line each.
  std::vector<std::string> about() const {
    std::vector<std::string> lines;
    lines.push_back(fmt::format(
        "{}: {} points launched, {} feasible, {} over a memory limit, {} failed, {} with a single launch; "
        "launches scatter by {:.1f}%",
        study_.name, census_.launched, census_.feasible, census_.out_of_memory, census_.failed, census_.once,
        census_.scatter * 100));
    if (census_.inferred > 0) {
      lines.push_back(
          fmt::format("{} more were never launched: a failure or a forecast dooms them, and they count as "
                      "over a memory limit",
                      census_.inferred));
    }
    if (census_.swing > search::kNear) {
      lines.push_back(fmt::format(
          "the machine's own speed moved by {:.0f}% while it was recorded; that is taken out of all values",
          census_.swing * 100));
    }
    if (census_.uncertain > search::kNear) {
      lines.push_back(
          fmt::format("a point's value is known to {:.1f}% (one standard error): which of the best is "
                      "the best is partly luck; more repeats on an idle machine would tell",
                      census_.uncertain * 100));
    }
    if (census_.missing > 0) {
      lines.push_back(fmt::format(
          "{}{}{} points that the constraints allow were not recorded; a strategy that asks for one is told "
          "that it failed",
          census_.recorded() < search::kWhole ? "DO NOT BELIEVE WHAT FOLLOWS: " : "",
          census_.counted ? "" : "up to ", grouped(census_.missing)));
    }
    if (grid_.pareto()) {
      lines.push_back(fmt::format(
          "looked for: 98% of the hypervolume of the front of {}; {} points ({:.1f}%) come within 2% "
          "of one of its {} in every entry",
          goals(" and "), census_.near_best,
          100 * static_cast<double>(census_.near_best) / static_cast<double>(census_.launched),
          census_.front));
    } else {
      const auto& best = *grid_.best();
      const search::Outcome* usual = grid_.find(study_.space.default_config());
      std::string over;
      if (usual != nullptr && usual->feasible && !usual->objective.empty() && usual->objective.back() > 0) {
        over = fmt::format(" (the default: {})", values(*usual));
      }
      lines.push_back(fmt::format(
          "the best of {}: {} at {}{}; {} points ({:.1f}%) lie within 2% of it", goals(", then "),
          values(best.outcome), search::describe(study_.space, best.config, study_.space.default_config()),
          over, census_.near_best,
          100 * static_cast<double>(census_.near_best) / static_cast<double>(census_.launched)));
    }
    lines.push_back(fmt::format("{} seeds, launches scattered by {:g}%, drift {:g}%, at most {} trials",
                                options_.seeds, replay_.noise * 100, replay_.drift * 100,
                                replay_.max_trials));
    for (std::string& line : lines) {
      line = report::printable(line);  // names are a foreign file's
    }
    return lines;
  }

  std::vector<std::string> titles() const {
    std::vector<std::string> titles = {"strategy", "trials to 2%",  "quartiles",
                                       "reached",  "failed trials", "short at the end"};
    if (!grid_.pareto()) {
      titles.insert(titles.end(), {"named within 2%", "false winners", "+10% found"});
    }
    if (census_.missing > 0) {
      titles.emplace_back("not recorded, a run");
    }
    return titles;
  }

  std::vector<std::string> row(const Played& played) const {
    const auto& sum = played.sum;
    std::vector<std::string> cells = {
        played.strategy,
        trials(sum.median, replay_.max_trials),
        trials(sum.lower, replay_.max_trials) + " to " + trials(sum.upper, replay_.max_trials),
        percent(sum.reached),
        percent(sum.failed_trials),
        fmt::format("{:.1f}%", sum.mean_shortfall * 100)};
    if (!grid_.pareto()) {
      cells.insert(cells.end(), {percent(sum.named_near), percent(sum.false_winners),
                                 sum.gain_exists ? percent(sum.gain_found) : "-"});
    }
    if (census_.missing > 0) {
      cells.push_back(fmt::format("{:.1f}", static_cast<double>(sum.unknown) / std::max(sum.runs, 1)));
    }
    return cells;
  }

  base::Json json(const std::vector<Played>& all) const {
    auto number = [](const std::optional<double>& value) {
      return value ? base::Json(*value) : base::Json(nullptr);
    };
    base::Json list = base::Json::array();
    for (const Played& played : all) {
      const auto& sum = played.sum;
      base::Json one = {
          {"strategy", played.strategy},
          {"trials_to_2pct",
           {{"median", number(sum.median)}, {"lower", number(sum.lower)}, {"upper", number(sum.upper)}}},
          {"reached", sum.reached},
          {"failed_trials", sum.failed_trials},
          {"mean_shortfall", sum.mean_shortfall},
          {"unknown_points", sum.unknown}};
      if (!grid_.pareto()) {
        one["named_within_2pct"] = sum.named_near;
        one["false_winners"] = sum.false_winners;
        one["gain_10pct_found"] = sum.gain_exists ? base::Json(sum.gain_found) : base::Json(nullptr);
      }
      list.push_back(std::move(one));
    }
    return {{"grid",
             {{"path", options_.grid},
              {"study", study_.name},
              {"study_id", base::json_get<std::string>(header_, "study_id", "")},
              {"points", census_.points},
              {"launched", census_.launched},
              {"inferred", census_.inferred},
              {"launched_once", census_.once},
              {"feasible", census_.feasible},
              {"out_of_memory", census_.out_of_memory},
              {"failed", census_.failed},
              {"within_2pct", census_.near_best},
              {"front", grid_.pareto() ? base::Json(census_.front) : base::Json(nullptr)},
              {"missing", census_.missing},
              {"missing_counted", census_.counted},
              {"scatter", census_.scatter},
              {"swing", census_.swing},
              {"pareto", grid_.pareto()}}},
            {"seeds", options_.seeds},
            {"noise", replay_.noise},
            {"drift", replay_.drift},
            {"max_trials", replay_.max_trials},
            {"strategies", list}};
  }

 private:
  std::string goals(const char* between) const {
    std::string text;
    for (const search::Expression& goal : study_.objective.maximize) {
      text += (text.empty() ? "" : between) + goal.text();
    }
    return text;
  }
  static std::string values(const search::Outcome& outcome) {
    std::string text;
    for (double value : outcome.objective) {
      text += fmt::format("{}{:.4g}", text.empty() ? "" : ", ", value);
    }
    return text;
  }

  const Study& study_;
  const search::RecordedGrid& grid_;
  const base::Json& header_;
  const Options& options_;
  const search::ReplayOptions& replay_;
  search::RecordedGrid::Census census_;
};

std::string terminal_text(const Table& table, const std::vector<Played>& all) {
  std::string out;
  for (const std::string& line : table.about()) {
    out += line + "\n";
  }
  std::vector<std::vector<std::string>> rows = {table.titles()};
  for (const Played& played : all) {
    rows.push_back(table.row(played));
  }
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  for (const auto& row : rows) {
    out += "\n";
    for (size_t i = 0; i < row.size(); ++i) {
      out += i == 0 ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("  {:>{}}", row[i], widths[i]);
    }
  }
  return out + "\n";
}

std::string markdown(const Table& table, const std::vector<Played>& all, const base::Json& header,
                     const std::string& command) {
  const base::Json host = header.value("host", base::Json::object());
  std::string out =
      fmt::format("# Replay of {}\n\n", report::printable(base::json_get<std::string>(header, "study", "")));
  for (const std::string& line : table.about()) {
    out += "- " + line + "\n";
  }
  out += fmt::format("- recorded on {} by {}\n- `{}`, commit {}\n\n",
                     report::printable(base::json_get<std::string>(host, "cpu_model", "an unknown machine")),
                     report::printable(base::json_get<std::string>(
                         header.value("driver", base::Json::object()), "commit", "?")),
                     command, base::commit());
  auto line = [](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (const std::string& cell : cells) {
      text += " " + cell + " |";
    }
    return text + "\n";
  };
  out += line(table.titles()) + line(std::vector<std::string>(table.titles().size(), "---"));
  for (const Played& played : all) {
    out += line(table.row(played));
  }
  return out;
}

std::vector<Played> play_all(const search::RecordedGrid& grid, const base::Json& header,
                             const Options& options, const search::ReplayOptions& replay) {
  const bool live = isatty(STDERR_FILENO) != 0;
  const std::vector<std::string> in_place = recorded_in_place_axes(header);
  std::vector<Played> all;
  for (const std::string& name : options.strategies) {
    const search::StrategyInfo* info = search::find_strategy(name);
    auto runs = search::replay_seeds(grid, *info, options.seeds, replay, in_place, [&](int seed) {
      if (live) {
        fmt::print(stderr, "\r\033[K{}: seed {} of {}", name, seed, options.seeds);
      }
    });
    all.push_back({name, search::summarize(runs)});
  }
  if (live) {
    fmt::print(stderr, "\r\033[K");
  }
  return all;
}

base::Result<void> check(const Options& options) {
  for (const std::string& name : options.strategies) {
    if (search::find_strategy(name) == nullptr) {
      std::vector<std::string> known;
      for (const auto& info : search::strategies()) {
        known.emplace_back(info.name);
      }
      return base::error("--strategy", fmt::format("unknown strategy '{}'", name),
                         base::did_you_mean(name, known));
    }
  }
  return {};
}

}  // namespace

int replay_command(int argc, char** argv) {
  Options options;
  CLI::App app("Play search strategies against a recorded grid: no server, no model.", "autoresearch replay");
  app.add_option("grid", options.grid,
                 "journal of a study, best one with `search: {strategy: grid, repeats: 3}`")
      ->required();
  app.add_option("--strategy", options.strategies, "strategies, separated by commas (default: all but grid)")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--seeds", options.seeds, "runs of each strategy (default 50)")->check(CLI::Range(1, 10000));
  app.add_option("--noise", options.noise, "scatter of a launch, one sigma (default 5%)");
  app.add_option("--drift", options.drift,
                 "swing of the machine's speed over 40 trials (default 0%; 10% where none is given)")
      ->expected(0, 1);
  app.add_option("--max-trials", options.max_trials, "launches of one run (default 60)")
      ->check(CLI::Range(1, 100000));
  app.add_option("--out", options.out, "write the table as Markdown to this file");
  app.add_flag("--json", options.json, "print JSON instead of the table");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (auto checked = check(options); !checked) {
    return fail(checked.failure(), kExitUsage);
  }
  search::ReplayOptions replay;
  replay.max_trials = options.max_trials;
  if (app.count("--drift") > 0 && app["--drift"]->as<std::string>().empty()) {
    options.drift = "10%";
  }
  auto noise = parse_share("--noise", options.noise, 1), drift = parse_share("--drift", options.drift, 0.9);
  if (!noise || !drift) {
    return fail(!noise ? noise.failure() : drift.failure(), kExitUsage);
  }
  replay.noise = *noise;
  replay.drift = *drift;
  if (std::error_code none;
      !options.out.empty() && std::filesystem::equivalent(options.out, options.grid, none)) {
    return fail(base::error(options.out, "--out names the grid itself, which the table would replace",
                            "give the table a file of its own"),
                kExitUsage);
  }
  auto loaded = load_grid(options.grid);
  if (!loaded) {
    return fail(loaded.failure(), kExitJournal);
  }
  const std::vector<Played> played = play_all(loaded->grid, loaded->header, options, replay);
  const Table table(loaded->study, loaded->grid, loaded->header, options, replay);
  fmt::print("{}", options.json ? base::dump_line(table.json(played)) + "\n" : terminal_text(table, played));
  if (!options.out.empty()) {
    std::string command = "autoresearch";
    for (int i = 0; i < argc; ++i) {
      command += fmt::format(" {}", argv[i]);
    }
    auto written = os::replace_file(options.out, markdown(table, played, loaded->header, command));
    if (!written) {
      return fail(written.failure(), kExitPreflight);
    }
  }
  return 0;
}

}  // namespace study
