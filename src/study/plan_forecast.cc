// `plan` compares strategies where a grid of the same space was recorded.

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "search/replay.h"
#include "src/os/files.h"
#include "src/study/plan.h"
#include "src/study/recorded_grid.h"

namespace study {
namespace {

constexpr int kMostTrials = 60;  // of a run: it shows how soon, and plan is to answer in seconds
constexpr double kUsualNoise = 0.05, kLeastNoise = 0.005;
constexpr const char* kCompared[] = {"two-phase", "model-based", "tpe", "random"};

// A header has the space file in it, and with a warm start what was known: a line that is longer is none. Most are far
// shorter, and so much is read first.
constexpr uint64_t kUsualHeader = 1 << 18, kMaxHeader = 64 << 20;

// The first line alone: grids have many megabytes. Null where it is no header, or no file: a pipe would keep us waiting.
base::Json header_of_file(const std::string& path) {
  std::error_code unreadable;
  if (!std::filesystem::is_regular_file(path, unreadable)) {
    return nullptr;
  }
  for (const uint64_t most : {kUsualHeader, kMaxHeader}) {
    const auto head = os::read_head(path, most);
    const size_t end = head ? head->find('\n') : std::string::npos;
    if (end != std::string::npos) {
      auto header = base::parse_json(std::string_view(*head).substr(0, end), path);
      return header && header->is_object() ? std::move(*header) : base::Json();
    }
  }
  return nullptr;
}

}  // namespace

GridForecast forecast_strategies(const search::RecordedGrid& grid, const std::vector<std::string>& in_place,
                                 const std::string& path, int max_trials, int seeds,
                                 const std::function<void(int, int)>& progress) {
  const auto census = grid.census();
  GridForecast forecast;
  forecast.path = path;
  forecast.points = census.points;
  forecast.missing = census.missing;
  forecast.counted = census.counted;
  forecast.seeds = seeds;
  forecast.max_trials = max_trials = std::min(max_trials, kMostTrials);
  forecast.pareto = grid.pareto();
  forecast.noise = census.scatter > 0 ? std::max(census.scatter, kLeastNoise) : kUsualNoise;
  search::ReplayOptions options;
  options.noise = forecast.noise;
  options.max_trials = max_trials;
  int run = 0;
  auto each = [&](int) {
    if (progress) {
      progress(run, seeds * static_cast<int>(std::size(kCompared)));
    }
    ++run;
  };
  for (const char* name : kCompared) {
    const search::StrategyInfo* info = search::find_strategy(name);
    AR_CHECK(info != nullptr, "a strategy that plan compares is not in the table");
    const auto sum = search::summarize(search::replay_seeds(grid, *info, seeds, options, in_place, each));
    forecast.strategies.push_back(
        {name, sum.median, sum.reached, static_cast<double>(sum.unknown) / std::max(sum.runs, 1)});
  }
  return forecast;
}

std::string to_text(const Study& study, const GridForecast& forecast) {
  std::string text = fmt::format(
      "\nStrategies, replayed on {} ({} points recorded of this space)\n  trials to {}, median of {} runs of "
      "at most {} trials, launches scattered by {:.1f}%\n",
      forecast.path, forecast.points,
      forecast.pareto ? "98% of the volume of the true front" : "within 2% of the best", forecast.seeds,
      forecast.max_trials, forecast.noise * 100);
  if (!forecast.elsewhere.empty()) {
    text += fmt::format("  recorded with {}: which strategy is sooner may carry over, the numbers do not\n",
                        forecast.elsewhere);
  }
  if (forecast.missing > 0) {
    const auto points = static_cast<double>(forecast.points);
    const double share = points / (points + forecast.missing);
    text += fmt::format(
        "  {}{}{} more points were not recorded, and a strategy that asks for one is told that it failed:\n"
        "  {}\n",
        share < search::kWhole ? fmt::format("DO NOT BELIEVE THIS: {}{:.2g}% of the space is there. ",
                                             forecast.counted ? "" : "perhaps only ", 100 * share)
                               : "",
        forecast.counted ? "" : "up to ", grouped(forecast.missing),
        forecast.unfinished
            ? fmt::format("let the grid's study end (autoresearch resume {}) before you believe what follows",
                          forecast.path)
            : "for numbers to trust, record the space anew with `strategy: grid` and max_trials for all of "
              "it");
  }
  for (const StrategyForecast& one : forecast.strategies) {
    text +=
        fmt::format("  {:<12} {:>5}, {:.0f}% of the runs got there{}{}\n", one.name,
                    one.median ? fmt::format("{:g}", *one.median) : fmt::format(">{}", forecast.max_trials),
                    100 * one.reached,
                    one.unknown > 0 ? fmt::format(", {:.2g} points a run not recorded", one.unknown) : "",
                    one.name == study.search.strategy ? "  (this study's)" : "");
  }
  return text;
}

base::Result<std::vector<std::string>> find_grids(const Study& study, const std::string& file,
                                                  const std::string& directory) {
  namespace fs = std::filesystem;
  if (!file.empty()) {
    const base::Json header = header_of_file(file);
    if (header.is_null()) {
      return base::error(file, "cannot be read as a journal",
                         "name the journal of a study of `strategy: grid`");
    }
    if (const std::string other = other_search(study, header); !other.empty()) {
      return base::error(file, fmt::format("was recorded with {} other than this space file's", other),
                         "name a grid of this very space, or leave --grid out");
    }
    return std::vector{file};
  }
  std::vector<std::pair<uintmax_t, std::string>> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(directory, none)) {
    const std::string path = entry.path().string();
    std::error_code unreadable;
    if (path.ends_with(".jsonl") && other_search(study, header_of_file(path)).empty()) {
      found.emplace_back(fs::file_size(entry.path(), unreadable), path);
    }
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> paths;
  for (auto& [size, path] : found) {
    paths.push_back(std::move(path));
  }
  return paths;
}

}  // namespace study
