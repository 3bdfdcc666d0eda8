// Every strategy against recorded grids, or against grids in memory that behave as servers do (bench/synthetic_grids.h):
// how many launches until one is within 2% of the best, and what is named at the end.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "bench/replay_plot.h"
#include "bench/study_runs.h"
#include "bench/synthetic_grids.h"
#include "search/replay.h"
#include "src/base/log.h"
#include "src/os/files.h"
#include "src/study/in_place.h"
#include "src/study/recorded_grid.h"

namespace {

struct Options {
  int seeds = 50, trials = 60;
  double noise = 0.05;
  std::string only, grids, out;
};

struct Bout {
  std::string strategy;
  search::ReplaySummary sum;
  std::vector<double> progress;
  double seconds = 0;  // of one run
};

struct Arena {
  std::string name;
  std::vector<std::string> about;  // a line each
  std::vector<std::string> in_place;
  search::RecordedGrid grid;
};

std::string trials(const std::optional<double>& value, int most) {
  return value ? fmt::format("{:g}", *value) : fmt::format(">{}", most);
}

std::string percent(double share) {
  return fmt::format("{:.0f}%", share * 100);
}

std::vector<Arena> recorded(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory, none)) {
    if (entry.path().extension() == ".jsonl") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Arena> arenas;
  for (const std::string& path : paths) {
    auto loaded = study::load_grid(path);
    if (!loaded) {
      base::log_warn("left out: {}", loaded.failure().to_string());
      continue;
    }
    std::string goal;
    for (const search::Expression& entry : loaded->study.objective.maximize) {
      goal += (goal.empty() ? "" : loaded->study.objective.pareto ? " and " : ", then ") + entry.text();
    }
    const base::Json host = loaded->header.value("host", base::Json::object());
    Arena arena{loaded->study.name,
                {fmt::format("`{}`: {}{}", std::filesystem::path(path).filename().string(),
                             loaded->study.objective.pareto ? "the front of " : "", goal),
                 fmt::format("recorded on {}, {} CPUs, started {}, driver {}",
                             base::json_get<std::string>(host, "cpu_model", "an unknown machine"),
                             base::json_get<int>(host, "logical_cpus", 0),
                             base::json_get<std::string>(loaded->header, "started", "?"),
                             base::json_get<std::string>(loaded->header.value("driver", base::Json::object()),
                                                         "commit", "?"))},
                study::recorded_in_place_axes(loaded->header),
                std::move(loaded->grid)};
    arenas.push_back(std::move(arena));
  }
  return arenas;
}

std::vector<Arena> synthetic() {
  std::vector<Arena> arenas;
  for (bench::NamedGrid& named : bench::synthetic_grids()) {
    arenas.push_back({named.name, {named.what}, {}, std::move(named.grid)});
  }
  return arenas;
}

Bout play(const Arena& arena, const search::StrategyInfo& info, const Options& options, int most) {
  search::ReplayOptions replay;
  replay.max_trials = most;
  replay.noise = options.noise;
  const auto start = std::chrono::steady_clock::now();
  const auto runs = search::replay_seeds(arena.grid, info, options.seeds, replay, arena.in_place);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return {std::string(info.name), search::summarize(runs), search::median_progress(runs, options.trials),
          seconds / options.seeds};
}

void table(const Arena& arena, const std::vector<Bout>& bouts, const std::optional<double>& chance,
           const Options& options, bench::Report& report) {
  const auto census = arena.grid.census();
  report.line(fmt::format("## {}\n", arena.name));
  for (const std::string& line : arena.about) {
    report.line("- " + line);
  }
  report.line(fmt::format(
      "- {} points launched, {} feasible ({:.0f}% not: {} over a memory limit, {} failed), {} with a single "
      "launch; launches scatter by {:.1f}%: a point's value is known to {:.1f}% (one standard error)",
      census.launched, census.feasible,
      100 - 100.0 * static_cast<double>(census.feasible) / static_cast<double>(census.launched),
      census.out_of_memory, census.failed, census.once, 100 * census.scatter, 100 * census.uncertain));
  if (census.inferred > 0) {
    report.line(fmt::format(
        "- {} more points were never launched: a failure or a forecast dooms them, and they count as over a "
        "memory limit",
        census.inferred));
  }
  if (census.swing > search::kNear) {
    report.line(fmt::format("- the machine's own speed moved by {:.0f}% while it was recorded; taken out",
                            100 * census.swing));
  }
  if (census.missing > 0) {
    report.line(
        fmt::format("- {}{:.0f} points were not recorded", census.counted ? "" : "up to ", census.missing));
  }
  if (arena.grid.pareto()) {
    report.line(fmt::format(
        "- looked for: 98% of the volume of the true front; {} points ({:.1f}%) within 2% of one of its {} "
        "in every entry\n",
        census.near_best,
        100.0 * static_cast<double>(census.near_best) / static_cast<double>(census.launched), census.front));
  } else {
    report.line(
        fmt::format("- {} points ({:.1f}%) within 2% of the best\n", census.near_best,
                    100.0 * static_cast<double>(census.near_best) / static_cast<double>(census.launched)));
  }
  report.line(
      "| strategy | trials to 2% | quartiles | reached | by random's | failed trials | short at the end | "
      "named within "
      "2% | false winners | +10% found | s a run |");
  report.line("|---|---|---|---|---|---|---|---|---|---|---|");
  for (const Bout& bout : bouts) {
    const auto& sum = bout.sum;
    const bool front = arena.grid.pareto();
    report.line(fmt::format("| {} | {} | {} to {} | {} | {} | {} | {:.1f}% | {} | {} | {} | {:.2f} |",
                            bout.strategy, trials(sum.median, options.trials),
                            trials(sum.lower, options.trials), trials(sum.upper, options.trials),
                            percent(sum.reached),
                            sum.median && chance ? fmt::format("{:.2f}", *sum.median / *chance) : "-",
                            percent(sum.failed_trials), 100 * sum.mean_shortfall,
                            front ? "-" : percent(sum.named_near), front ? "-" : percent(sum.false_winners),
                            front || !sum.gain_exists ? "-" : percent(sum.gain_found), bout.seconds));
  }
  report.line(chance ? fmt::format("\nRandom, let go on to the end of the grid: {:g} trials.\n", *chance)
                     : std::string("\nRandom does not get there at all.\n"));
}

int run(const Options& options, int argc, char** argv) {
  std::vector<Arena> arenas = options.grids.empty() ? synthetic() : recorded(options.grids);
  if (!options.only.empty()) {
    std::erase_if(arenas, [&](const Arena& arena) { return arena.name != options.only; });
  }
  if (arenas.empty()) {
    fmt::print(stderr,
               "error: {}: no recorded grid; record them with `autoresearch run --space configs/grids/...`\n",
               options.grids.empty() ? options.only : options.grids);
    return 3;
  }
  bench::Report report("Strategies replayed on recorded grids", argc, argv);
  report.line(
      fmt::format("Median of {} seeds, {} trials at most, launches scattered by {:g}%. *By random's*: the "
                  "median over that of "
                  "random, which for this goes on to the end of the grid. What the columns mean: "
                  "search/README.md, Replay.\n",
                  options.seeds, options.trials, options.noise * 100));
  std::vector<bench::ProgressPanel> panels;
  for (const Arena& arena : arenas) {
    bench::ProgressPanel panel{fmt::format("{} ({} points)", arena.name, arena.grid.points().size()), {}};
    std::vector<Bout> bouts;
    for (const auto& info : search::strategies()) {
      if (info.name != "grid") {
        bouts.push_back(play(arena, info, options, options.trials));
        panel.lines.push_back({bouts.back().strategy, bouts.back().progress});
      }
    }
    const auto whole =
        play(arena, *search::find_strategy("random"), options, static_cast<int>(arena.grid.points().size()));
    table(arena, bouts, whole.sum.median, options, report);
    panels.push_back(std::move(panel));
  }
  if (options.out.empty()) {
    return 0;
  }
  if (auto made = os::make_directories(options.out); !made) {
    fmt::print(stderr, "error: {}\n", made.failure().to_string());
    return 3;
  }
  report.line("![median share of the best found, by launches](replay.svg)");
  auto drawn = os::replace_file(options.out + "/replay.svg", bench::progress_svg(panels));
  if (!drawn) {
    fmt::print(stderr, "error: {}\n", drawn.failure().to_string());
    return 3;
  }
  return report.save(options.out + "/replay.md") ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Plays every search strategy against recorded grids.", "replay-bench");
  app.add_option("--grids", options.grids, "directory of journals (default: grids in memory)");
  app.add_option("--out", options.out, "directory for replay.md and replay.svg");
  app.add_option("--seeds", options.seeds, "runs of each strategy")->check(CLI::Range(1, 10000));
  app.add_option("--trials", options.trials, "launches of one run")->check(CLI::Range(2, 10000));
  app.add_option("--noise", options.noise, "scatter of a launch, one sigma")->check(CLI::Range(0.0, 1.0));
  app.add_option("--only", options.only, "one grid, by name");
  CLI11_PARSE(app, argc, argv);
  return run(options, argc, argv);
}
