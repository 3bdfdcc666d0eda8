#include "search/replay.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "search/rng.h"

namespace search {
namespace {

constexpr double kDriftPeriod = 40;   // trials
constexpr int kWaves[] = {6, 3, 2};   // as study::kFinalWaves
constexpr int kPairs = 6;             // of the confirmation
constexpr double kStudent5 = 2.5706;  // 97.5% point, five degrees of freedom
constexpr double kRaceSigmas =
    4.2;  // beyond noise: 3 sigma of the difference of two launches, as in study::broken_limit
constexpr double kWorthFinding = 0.1;  // a gain over the default

// Standard normal, a function of what it is drawn for alone.
double normal(uint64_t seed, const std::string& key, uint64_t launch) {
  uint64_t hash = 1469598103934665603ULL;  // FNV-1a: std::hash differs between libraries
  for (unsigned char byte : key) {
    hash = (hash ^ byte) * 1099511628211ULL;
  }
  Rng rng(seed, hash + launch * 0x9E3779B97F4A7C15ULL);
  const double u = 1 - rng.uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * rng.uniform());
}

class Player {
 public:
  Player(const RecordedGrid& grid, uint64_t seed, const ReplayOptions& options)
      : grid_(grid), seed_(seed), options_(options), default_(grid.space().default_config()) {}

  ReplayRun play(Strategy& strategy) {
    // Forecasts cost no launch; a strategy that makes nothing else ends by its own limit of them.
    while (static_cast<int>(run_.trials.size()) < options_.max_trials) {
      auto proposal = strategy.ask();
      if (!proposal) {
        break;
      }
      if (!proposal->doomed.empty()) {
        Outcome forecast;
        forecast.out_of_memory = forecast.predicted = true;
        strategy.tell(proposal->config, forecast);
        continue;
      }
      strategy.tell(proposal->config, trial(proposal->config));
    }
    if (!grid_.pareto()) {
      conclude();
    }
    return std::move(run_);
  }

 private:
  // What launch number `launch` of a configuration shows at trial `at`.
  Outcome launch(const Config& config, uint64_t launch, size_t at) const {
    const RecordedGrid::Point* point = grid_.point(config);
    if (point == nullptr) {
      return {};
    }
    Outcome told = point->outcome;
    for (size_t i = 0; i < told.objective.size(); ++i) {
      if (grid_.noisy(i)) {
        told.objective[i] *= std::exp(luck(config, launch, at, i));
      }
    }
    told.noise = told.ok ? options_.noise : 0;
    if (told.ok && !told.objective.empty()) {
      told.feasible = slack(*point, launch, at) >= 0;
    }
    return told;
  }

  // The logarithm of what noise and drift make of an entry.
  double luck(const Config& config, uint64_t launch, size_t at, size_t entry) const {
    const double phase = Rng(seed_, 77).uniform();
    const double swing =
        options_.drift * std::sin(2 * std::numbers::pi * (static_cast<double>(at) / kDriftPeriod + phase));
    return std::log(1 + swing) + options_.noise * normal(seed_, key_of(config), launch * 16 + entry);
  }

  // How far limits on speeds are from breaking in that launch (below 0: one is broken). Its speed is what its last entry
  // that is one shows; of the default the driver knows what its trial showed.
  double slack(const RecordedGrid::Point& point, uint64_t launch, size_t at) const {
    size_t entry = point.outcome.objective.size();
    while (entry > 0 && !grid_.noisy(entry - 1)) {
      --entry;
    }
    const size_t speed = entry > 0 ? entry - 1 : point.outcome.objective.size();
    const double here = luck(point.config, launch, at, speed);
    const double usual = key_of(point.config) == key_of(default_) ? here : luck(default_, 0, 0, speed);
    return std::min(point.margin.alone + here, point.margin.to_default + here - usual);
  }

  Outcome trial(const Config& config) {
    const Outcome* truth = grid_.find(config);
    Outcome told = launch(config, 0, run_.trials.size());
    run_.unknown += truth == nullptr ? 1 : 0;
    run_.failed += told.feasible ? 0 : 1;
    const bool feasible = truth != nullptr && truth->feasible;  // what luck makes of it is no gain
    if (feasible && grid_.pareto()) {
      front_.push_back(truth->objective);
      run_.shortfall = grid_.shortfall(front_);
    } else if (feasible) {
      run_.shortfall = std::min(run_.shortfall, grid_.shortfall(*truth));
    }
    run_.trials.push_back({config, told, run_.shortfall});
    if (!run_.reached && run_.shortfall <= kNear) {
      run_.reached = static_cast<int>(run_.trials.size());
    }
    return told;
  }

  struct Contender {
    const ReplayTrial* trial = nullptr;
    double sum = 0;
    int launches = 0, missed = 0;  // launches in which a limit did not hold
    double mean() const { return sum / launches; }
  };

  void relaunch(Contender& contender) const {
    const Outcome outcome =
        launch(contender.trial->config, static_cast<uint64_t>(contender.launches), run_.trials.size());
    contender.sum += outcome.objective.back();
    ++contender.launches;
    contender.missed += outcome.feasible ? 0 : 1;
  }

  // Those that only the last entry tells apart from the best, the highest first.
  std::vector<Contender> contenders() const {
    std::vector<const Outcome*> outcomes;
    for (const ReplayTrial& trial : run_.trials) {
      outcomes.push_back(&trial.told);
    }
    auto best = best_of(outcomes, kObjectiveTolerance);
    std::vector<Contender> found;
    for (const ReplayTrial& trial : run_.trials) {
      bool tied = best && trial.told.feasible;
      for (size_t i = 0; tied && i + 1 < trial.told.objective.size(); ++i) {
        const double peak = outcomes[*best]->objective[i];
        tied = std::fabs(trial.told.objective[i] - peak) <= kObjectiveTolerance * std::fabs(peak);
      }
      if (tied) {
        Contender one;
        one.trial = &trial;
        one.sum = trial.told.objective.back();
        one.launches = 1;
        found.push_back(one);
      }
    }
    sort(found);
    return found;
  }

  static void sort(std::vector<Contender>& contenders) {
    std::stable_sort(contenders.begin(), contenders.end(),
                     [](const Contender& a, const Contender& b) { return a.mean() > b.mean(); });
  }

  void conclude() {
    run_.named = default_;
    run_.gain_exists = grid_.best() != nullptr && gains(grid_.best()->outcome, kWorthFinding);
    std::vector<Contender> field = contenders();
    if (options_.noise > 0) {
      for (int places : kWaves) {
        for (size_t i = 0; i < std::min(field.size(), static_cast<size_t>(places)); ++i) {
          relaunch(field[i]);
        }
        field.resize(std::min(field.size(), static_cast<size_t>(places)));
        std::erase_if(field, [](const Contender& one) { return 2 * one.missed > one.launches; });
        sort(field);
      }
    }
    if (!field.empty()) {
      claim(*field.front().trial);
    }
    const Outcome* named = grid_.find(run_.named);
    run_.named_shortfall = named != nullptr ? grid_.shortfall(*named) : 1;
    run_.false_winner = run_.claimed && !gains(*named, 0);
    run_.gain_found =
        run_.gain_exists && run_.claimed && gains(*named, (1 + kWorthFinding) * (1 - kNear) - 1);
  }

  // By what was told alone, as the driver: the default's trial, the winner's, and the fresh launches of both.
  void claim(const ReplayTrial& winner) {
    if (key_of(winner.config) == key_of(default_)) {
      return;
    }
    auto usual = std::find_if(run_.trials.begin(), run_.trials.end(), [&](const ReplayTrial& trial) {
      return key_of(trial.config) == key_of(default_);
    });
    const bool comparable = usual != run_.trials.end() && usual->told.feasible;
    double sum = 0, squares = 0;
    int missed = 0;
    bool broken = false;
    const RecordedGrid::Point& point = *grid_.point(winner.config);
    for (uint64_t pair = 100; pair < 100 + kPairs; ++pair) {
      const Outcome fresh = launch(winner.config, pair, run_.trials.size());
      missed += fresh.feasible ? 0 : 1;
      broken = broken || slack(point, pair, run_.trials.size()) < -kRaceSigmas * options_.noise;
      if (comparable) {
        const double a = fresh.objective.back();
        const double b = launch(default_, pair, run_.trials.size()).objective.back();
        const double ratio = a > 0 && b > 0 ? std::log(a / b) : (a - b) / std::max(std::fabs(b), 1e-300);
        sum += ratio;
        squares += ratio * ratio;
      }
    }
    if (broken || 3 * missed > kPairs) {
      return;
    }
    const double mean = sum / kPairs;
    const double variance = std::max(squares / kPairs - mean * mean, 0.0) / (kPairs - 1);
    if (!comparable || earlier_entry_decides(winner.told, usual->told) ||
        (mean > std::log(1 + kObjectiveTolerance) && mean - kStudent5 * std::sqrt(variance) > 0)) {
      run_.claimed = true;
      run_.named = winner.config;
    }
  }

  static bool earlier_entry_decides(const Outcome& outcome, const Outcome& usual) {
    for (size_t i = 0; i + 1 < std::min(outcome.objective.size(), usual.objective.size()); ++i) {
      if (outcome.objective[i] > usual.objective[i] + kObjectiveTolerance * std::fabs(usual.objective[i])) {
        return true;
      }
    }
    return false;
  }

  // Truly better than the default by more than this share of the last entry, or in an earlier one.
  bool gains(const Outcome& outcome, double share) const {
    const Outcome* usual = grid_.find(default_);
    if (!outcome.feasible || usual == nullptr || !usual->feasible) {
      return outcome.feasible;
    }
    const double base = usual->objective.back();
    return earlier_entry_decides(outcome, *usual) ||
           (better(outcome, *usual, kObjectiveTolerance) &&
            outcome.objective.back() - base > share * std::fabs(base));
  }

  const RecordedGrid& grid_;
  uint64_t seed_;
  const ReplayOptions& options_;
  Config default_;
  ReplayRun run_;
  std::vector<std::vector<double>> front_;  // true objectives of what was launched and is feasible
};

// The value below which a share of them lies, counting a missing one as later than all.
std::optional<double> quantile(std::vector<double> sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const double low = sorted[static_cast<size_t>(std::floor(at))];
  const double high = sorted[static_cast<size_t>(std::ceil(at))];
  return std::isfinite(high) ? std::optional<double>(low + (at - std::floor(at)) * (high - low))
                             : std::nullopt;
}

}  // namespace

ReplayRun replay(const RecordedGrid& grid, Strategy& strategy, uint64_t seed, const ReplayOptions& options) {
  return Player(grid, seed, options).play(strategy);
}

std::vector<ReplayRun> replay_seeds(const RecordedGrid& grid, const StrategyInfo& info, int seeds,
                                    const ReplayOptions& options, const std::vector<std::string>& in_place,
                                    const std::function<void(int)>& each) {
  std::vector<ReplayRun> runs;
  for (int seed = 1; seed <= seeds; ++seed) {
    if (each) {
      each(seed);
    }
    Limits limits;
    limits.max_trials = options.max_trials;
    limits.pareto = grid.pareto();
    limits.in_place = in_place;  // as the driver would
    auto strategy = info.make(grid.space(), static_cast<uint64_t>(seed), limits);
    runs.push_back(replay(grid, *strategy, static_cast<uint64_t>(seed), options));
  }
  return runs;
}

std::vector<double> median_progress(const std::vector<ReplayRun>& runs, int trials) {
  std::vector<double> progress;
  for (int i = 0; i < trials; ++i) {
    std::vector<double> shares;
    for (const ReplayRun& run : runs) {
      const size_t at = std::min(static_cast<size_t>(i) + 1, run.trials.size());
      shares.push_back(at > 0 ? 1 - run.trials[at - 1].shortfall : 0);
    }
    std::sort(shares.begin(), shares.end());
    progress.push_back(shares.empty() ? 0 : quantile(shares, 0.5).value_or(0));
  }
  return progress;
}

ReplaySummary summarize(const std::vector<ReplayRun>& runs) {
  ReplaySummary sum;
  sum.runs = static_cast<int>(runs.size());
  if (runs.empty()) {
    return sum;
  }
  std::vector<double> reached;
  double launches = 0, gains = 0;
  for (const ReplayRun& run : runs) {
    reached.push_back(run.reached ? *run.reached : std::numeric_limits<double>::infinity());
    sum.reached += run.reached ? 1 : 0;
    sum.named_near += run.named_shortfall <= kNear ? 1 : 0;
    sum.false_winners += run.false_winner ? 1 : 0;
    sum.gain_found += run.gain_found ? 1 : 0;
    sum.failed_trials += run.failed;
    sum.mean_shortfall += run.shortfall;
    sum.unknown += run.unknown;
    launches += static_cast<double>(run.trials.size());
    gains += run.gain_exists ? 1 : 0;
  }
  std::sort(reached.begin(), reached.end());
  sum.lower = quantile(reached, 0.25);
  sum.median = quantile(reached, 0.5);
  sum.upper = quantile(reached, 0.75);
  const double n = sum.runs;
  sum.reached /= n;
  sum.named_near /= n;
  sum.false_winners /= n;
  sum.mean_shortfall /= n;
  sum.gain_found = gains > 0 ? sum.gain_found / gains : 0;
  sum.gain_exists = gains > 0;
  sum.failed_trials /= std::max(launches, 1.0);
  return sum;
}

}  // namespace search
