#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>

#include "src/base/units.h"
#include "src/report/text.h"
#include "src/study/backends.h"
#include "src/study/clock.h"
#include "src/study/header.h"
#include "src/study/in_place.h"
#include "src/study/memory_estimate.h"
#include "src/study/perplexity_record.h"
#include "src/study/plan.h"
#include "src/study/recorded_grid.h"
#include "src/study/session.h"

namespace study {
namespace {

constexpr int kOk = 0, kUsage = 2, kPreflight = 3;

// Decode is bound by memory traffic and a sparse model reads part of its file: a rough guess between what
// large and tiny models do. Prefill batches the same reads.
PlanRates guess_rates(const std::string& model) {
  std::error_code missing;
  auto bytes = static_cast<double>(std::filesystem::file_size(model, missing));
  PlanRates rates;
  if (!missing && bytes > 0) {
    rates.decode_tps = std::clamp(2e10 / bytes, 20.0, 300.0);
    rates.prefill_tps = rates.decode_tps * 15;
  }
  return rates;
}

double available_s(const SearchOptions& search) {
  double left = search.budget_s;
  if (!search.until.empty()) {
    double until = seconds_until(search.until, std::time(nullptr)).value_or(0);  // checked when it was read
    left = left > 0 ? std::min(left, until) : until;
  }
  return left;
}

int preflight_failed(const base::Error& problem) {
  fmt::print(stderr, "error: preflight failed: {}\n", problem.to_string());
  return kPreflight;
}

constexpr const char* kGrids = "results/grids";
constexpr int kForecastSeeds = 20;

// On stderr, once it takes longer than a second: a terminal's line is kept up to date, a log gets one.
class ProgressLine {
 public:
  explicit ProgressLine(std::string path) : path_(std::move(path)) {}
  void show(int done, int of) {
    const bool terminal = ::isatty(STDERR_FILENO) == 1;
    if (std::chrono::steady_clock::now() - start_ < std::chrono::seconds(1) || (shown_ && !terminal)) {
      return;
    }
    shown_ = true;
    fmt::print(stderr, "{}replaying strategies on {}: {} of {} runs{}", terminal ? "\r" : "", path_, done, of,
               terminal ? "" : "\n");
  }
  void clear() const {
    if (shown_ && ::isatty(STDERR_FILENO) == 1) {
      fmt::print(stderr, "\r\x1b[K");
    }
  }

 private:
  std::string path_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

base::Result<void> compare_strategies(const Study& study, const std::string& file) {
  auto paths = find_grids(study, file, kGrids);
  if (!paths) {
    return paths.failure();
  }
  std::optional<LoadedGrid> loaded;
  for (const std::string& path : *paths) {
    auto grid = load_grid(path);
    if (grid) {
      loaded = std::move(*grid);
      break;
    }
    if (!file.empty()) {
      return grid.failure();
    }
    fmt::print("\nStrategies are not compared on this grid: {}\n",
               report::printable(grid.failure().to_string()));
  }
  if (!loaded) {
    return {};
  }
  std::fflush(stdout);  // the plan itself, before anybody waits
  const int trials = study.search.strategy == "grid" ? SearchOptions().max_trials : study.search.max_trials;
  ProgressLine line(loaded->path);
  GridForecast forecast =
      forecast_strategies(loaded->grid, recorded_in_place_axes(loaded->header), loaded->path, trials,
                          kForecastSeeds, [&](int done, int of) { line.show(done, of); });
  line.clear();
  forecast.elsewhere = report::printable(recorded_elsewhere(study, loaded->header));
  forecast.unfinished = loaded->unfinished;
  fmt::print("{}", to_text(study, forecast));
  return {};
}

}  // namespace

int plan_command(const PlanOptions& options) {
  auto loaded = load_space_file(options.space);
  if (const auto* errors = std::get_if<SpaceFileErrors>(&loaded)) {
    fmt::print(stderr, "{}", errors->to_string());
    return kUsage;
  }
  Study& study = std::get<Study>(loaded);
  if (options.budget_s >= 0) {
    study.search.budget_s = options.budget_s;
  }
  if (options.max_trials > 0) {
    study.search.max_trials = options.max_trials;
  }
  for (const std::string& path : model_paths(study)) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
      continue;  // a plan may come before the download; what is there must be whole
    }
    if (auto model = model_identity(path, study.backend.kind); !model) {
      return preflight_failed(model.failure());
    }
  }
  PlanRates rates = guess_rates(study.model);
  if (options.decode_tps > 0) {
    rates.decode_tps = options.decode_tps;
  }
  if (options.prefill_tps > 0) {
    rates.prefill_tps = options.prefill_tps;
  }
  PlanMemory memory;
  auto forecast = MemoryForecast::make(study, read_host_capacity(study));
  if (!forecast) {
    return preflight_failed(forecast.failure());
  }
  memory.bytes = [&](const search::Config& config) { return forecast->estimate(config).total(); };
  memory.cannot_fit = [&](const search::Config& config) { return forecast->cannot_fit(config); };
  memory.host_bytes = forecast->host().memory;
  // Where the server is not there yet, the plan is one of fresh launches.
  std::vector<std::string> in_place;
  std::vector<base::Error> refused;
  std::string no_losses;
  if (auto program = discover_backends(study)) {
    in_place = in_place_axes(study, *program);
    refused = unsupported_axes(study, *program);
    no_losses = no_perplexity(study, *program);
  }
  Plan plan =
      make_plan(study, rates, available_s(study.search), 100, memory, in_place, options.confirm_launches);
  fmt::print("{}", to_text(study, plan));
  if (auto compared = compare_strategies(study, options.grid); !compared) {
    fmt::print(stderr, "error: {}\n", compared.failure().to_string());
    return kUsage;
  }
  for (const base::Error& problem : refused) {
    fmt::print("\n`autoresearch run` will refuse to start: {}\n", problem.to_string());
  }
  if (!no_losses.empty()) {
    fmt::print(
        "\n{}{}.\n",
        perplexity_decides(study.objective)
            ? "`autoresearch run` will refuse to start, the objective or a limit needs the perplexity: "
            : "Perplexity will not be measured: ",
        no_losses);
  }
  std::error_code ignored;
  bool file =
      study.backend.kind == BackendKind::kTbqServer || study.backend.kind == BackendKind::kLlamaServer;
  if (file && !std::filesystem::exists(study.model, ignored)) {
    fmt::print("\nThe model is not there yet: {}. `autoresearch run` will refuse to start without it.\n",
               study.model);
  }
  return kOk;
}

int plan_command(int argc, char** argv) {
  PlanOptions options;
  std::string budget;
  CLI::App app("List the trials a study would begin with and estimate its time; launches nothing.",
               "autoresearch plan");
  app.add_option("--space", options.space, "the study's space file")->required();
  app.add_option("--budget", budget, "time for the whole study, such as 8h (default: the file's)");
  app.add_option("--max-trials", options.max_trials, "most trials (default: the file's)")
      ->check(CLI::Range(1, 100000));
  app.add_option("--confirm", options.confirm_launches, confirm_help())->check(CLI::Range(0, 10));
  app.add_option("--grid", options.grid,
                 "journal of a grid of this space: compares strategies by replay\n"
                 "(default: one of results/grids that fits)");
  app.add_option("--decode-tps", options.decode_tps, "decode speed assumed, tokens per second")
      ->check(CLI::Range(1e-3, 1e6));
  app.add_option("--prefill-tps", options.prefill_tps, "prefill speed assumed, tokens per second")
      ->check(CLI::Range(1e-3, 1e7));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kOk : kUsage;
  }
  if (app.count("--grid") > 0 && options.grid.empty()) {
    fmt::print(stderr, "error: --grid: the name of the journal is empty; give it, or leave the option out\n");
    return kUsage;
  }
  if (!budget.empty()) {
    auto seconds = base::parse_duration_s(budget);
    if (!seconds) {
      fmt::print(stderr, "error: --budget: {}\n", seconds.failure().to_string());
      return kUsage;
    }
    options.budget_s = *seconds;
  }
  return plan_command(options);
}

}  // namespace study
