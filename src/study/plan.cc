#include "src/study/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "search/strategy.h"
#include "search/sweep.h"
#include "src/base/units.h"
#include "src/study/loop.h"
#include "src/study/objective.h"
#include "src/study/pace.h"

namespace study {
namespace {

// What a trial takes besides loading and tokens: the stop, the wait until memory is back, the first token.
constexpr double kOverheadS = 5;
constexpr double kAnswerShare = 0.5;    // of max_tokens, for a known answer
constexpr double kQuestionTokens = 40;  // with the chat template
constexpr double kNeedleAnswer = 24;
constexpr int kListedLeftOut = 6;

double ctx_size_of(const search::Space& space, const search::Config& config) {
  size_t axis = space.index_of("ctx_size");
  const int64_t* whole = axis < config.size() ? std::get_if<int64_t>(&config[axis]) : nullptr;
  return whole != nullptr ? static_cast<double>(*whole) : 0;
}

double speed_s(const probes::SpeedOptions& speed, double prompt_tokens, const PlanRates& rates) {
  return (speed.repeats + speed.warmups) *
         (prompt_tokens / rates.prefill_tps + speed.n_gen / rates.decode_tps);
}

// Of an anchor, a final, a confirmation launch.
double speed_only_s(const Study& study, const search::Config& config, const PlanRates& rates) {
  const ProbeOptions& probes = study.probes;
  double total = kOverheadS;
  if (probes.speed) {
    total += speed_s(probes.speed_options, probes.speed_options.n_prompt, rates);
  }
  if (probes.half_context) {
    total += speed_s(probes.speed_options, ctx_size_of(study.space, config) / 2, rates);
  }
  return total;
}

double measure_s(const Study& study, const search::Config& config, const PlanRates& rates) {
  const ProbeOptions& probes = study.probes;
  double total = speed_only_s(study, config, rates);
  if (probes.quality) {
    for (const auto& item : probes.quality_items) {
      total += kQuestionTokens / rates.prefill_tps + kAnswerShare * item.max_tokens / rates.decode_tps;
    }
  }
  if (probes.perplexity) {
    total += probes.prompt_losses.chunks * (probes.prompt_losses.n_ctx / rates.prefill_tps);
  }
  if (probes.needle) {
    const auto& needle = probes.needle_options;
    for (int length : needle.lengths) {
      total += static_cast<double>(needle.depths.size()) * needle.per_cell *
               (length / rates.prefill_tps + kNeedleAnswer / rates.decode_tps);
    }
  }
  return total;
}

double time_of(const PlannedTrial& trial, double load_s) {
  return trial.cannot_fit.empty() ? (trial.in_place ? 0 : load_s) + trial.measure_s : 0;
}

int trials_in(const Plan& plan, double load_s, double kept_s) {
  if (plan.available_s <= 0) {
    return plan.max_trials;
  }
  double left = plan.available_s - kept_s;
  int fits = 0;
  while (fits < plan.max_trials) {
    size_t listed = static_cast<size_t>(fits);
    bool known = listed < plan.first.size();
    left -= known ? time_of(plan.first[listed], load_s) : load_s + plan.measure_s;
    if (left < 0) {
      break;
    }
    ++fits;
  }
  return fits;
}

double time_of_first(const Plan& plan) {
  double total = 0;
  for (const PlannedTrial& trial : plan.first) {
    total += time_of(trial, plan.load_s);
  }
  return total;
}

// The column of one trial, as wide as its heading; "" for every one where nothing is known.
std::string memory_column(const Plan& plan, std::string_view text) {
  bool known = std::any_of(plan.first.begin(), plan.first.end(),
                           [](const PlannedTrial& trial) { return trial.memory_bytes > 0; });
  return known ? fmt::format(" {:>10}", text) : "";
}

std::string memory_text(const PlannedTrial& trial) {
  return trial.memory_bytes > 0 ? base::format_bytes(trial.memory_bytes) : "?";
}

// One line on what fits, "" where nothing is known.
std::string memory_line(const Plan& plan) {
  uint64_t most = 0;
  size_t forbidden = 0;
  for (const PlannedTrial& trial : plan.first) {
    most = std::max(most, trial.memory_bytes);
    forbidden += trial.cannot_fit.empty() ? 0 : 1;
  }
  if (most == 0 || plan.host_bytes == 0) {
    return "";
  }
  std::string text = fmt::format("  memory       up to {} (weights, KV cache, workspace) of {}; ",
                                 base::format_bytes(most), base::format_bytes(plan.host_bytes));
  return text + (forbidden > 0
                     ? fmt::format("{} cannot fit and {} skipped\n", forbidden, forbidden == 1 ? "is" : "are")
                     : std::string("nothing is known not to fit\n"));
}

std::string limits_text(const Plan& plan, const Study& study) {
  if (plan.available_s <= 0) {
    return fmt::format("no time limit; set search.budget or search.until to have one\n");
  }
  std::string why;
  if (study.search.budget_s > 0) {
    why = fmt::format("budget {}", base::format_duration(study.search.budget_s));
  }
  if (!study.search.until.empty()) {
    why += fmt::format("{}until {}", why.empty() ? "" : ", ", study.search.until);
  }
  return fmt::format("{} ({})\n", base::format_duration(plan.available_s), why);
}

std::string left_out_text(const Plan& plan) {
  auto fits = static_cast<size_t>(plan.fits);
  if (fits >= static_cast<size_t>(plan.max_trials)) {
    return "";
  }
  std::string text = "  left out     ";
  if (fits < plan.first.size()) {
    size_t missing = plan.first.size() - fits;
    text += fmt::format("the last {} of the trials above{}:\n", missing,
                        plan.open_ended ? " and every step from the best point" : "");
    for (size_t i = fits; i < plan.first.size() && i < fits + kListedLeftOut; ++i) {
      text += fmt::format("                 {}\n", plan.first[i].change);
    }
    return text + (missing > kListedLeftOut ? "                 ...\n" : "");
  }
  return text + fmt::format("the last {} steps from the best point\n", plan.max_trials - plan.fits);
}

double typical_load_s(const BackendOptions& backend) {
  return backend.load_estimate_s > 0 ? backend.load_estimate_s : backend.load_timeout_s / 2;
}

PlannedEnd planned_end(const Study& study, const std::vector<std::string>& in_place, int confirm_launches,
                       double load_s, double speed_s) {
  PlannedEnd end;
  const bool ours = study.backend.kind != BackendKind::kUrl;  // else nothing is ever launched
  end.in_place =
      !ours || std::all_of(study.space.axes.begin(), study.space.axes.end(), [&](const search::Axis& axis) {
        return std::find(in_place.begin(), in_place.end(), axis.name) != in_place.end();
      });
  end.launch_s = (ours ? load_s : 0) + speed_s;
  end.change_s = speed_s;
  if (confirm_launches == 0) {
    return end;
  }
  const std::vector<search::Expression>& goals = study.objective.maximize;
  const bool noisy = !goals.empty() && depends_on_speed(goals.back());
  if (noisy) {
    for (int wave : kFinalWaves) {
      end.finals += wave;
    }
  }
  const bool few = confirm_launches < kLeastPairs;  // exactly so many
  if (few && ours) {
    end.confirm_least = end.confirm_most = 2 * confirm_launches;
    end.in_place = false;
  } else if (end.in_place) {
    end.confirm_least = 4 * (few ? confirm_launches : kLeastBlocks);
    end.confirm_most = 4 * (few ? confirm_launches : kMostPairs);
    end.cold = ours ? 2 * kColdLaunches : 0;
  } else {
    end.confirm_least = 2 * confirm_launches;
    end.confirm_most = 2 * std::max(kMostPairs, confirm_launches);
  }
  if (!noisy) {
    end.confirm_most = end.confirm_least;  // as Loop::plan_confirmation: more launches would say no more
  }
  for (size_t i = 0; !few && !study.objective.pareto && i + 1 < goals.size(); ++i) {
    end.decided_by += (i > 0 ? " or " : "") + goals[i].text();
  }
  if (!end.decided_by.empty()) {
    const int pairs = std::max(kLeastPairs, confirm_launches);
    end.decided_changes = !end.in_place ? 0 : ours ? 4 : 4 * pairs;
    end.decided_launches = !ours ? 0 : 2 * (end.in_place ? kLeastPairs : pairs);
  }
  return end;
}

// How many more points a grid has, at most so many.
int rest_of_grid(search::Strategy& strategy, int most) {
  int more = 0;
  for (; more < most; ++more) {
    auto proposal = strategy.ask();
    if (!proposal) {
      break;
    }
    search::Outcome outcome;
    outcome.ok = outcome.feasible = true;
    outcome.objective = {1.0};
    strategy.tell(proposal->config, outcome);
  }
  return more;
}

std::string range_text(int least, int most) {
  return least == most ? std::to_string(least) : fmt::format("{} to {}", least, most);
}

std::string end_text(const PlannedEnd& end) {
  if (end.confirm_most == 0) {
    return "  at the end   neither finals nor confirmation (--confirm 0): nothing will be confirmed\n";
  }
  const char* what = end.in_place ? "changes in place" : "launches";
  std::string text = "  at the end   ";
  if (end.finals > 0) {
    text += fmt::format("finals: up to {} {}, {}\n               ", end.finals, what,
                        base::format_duration(end.finals_s()));
  }
  text += fmt::format("confirmation: {} {}{}, {}{}\n", range_text(end.confirm_least, end.confirm_most), what,
                      end.cold > 0 ? fmt::format(" and {} launches", end.cold) : "",
                      base::format_duration(end.least_s()),
                      end.confirm_least == end.confirm_most
                          ? ""
                          : fmt::format(" to {} (as noise asks for)", base::format_duration(end.most_s())));
  if (!end.decided_by.empty()) {
    std::string how;
    if (end.decided_changes > 0) {
      how = fmt::format("{} changes in place", end.decided_changes);
    }
    if (end.decided_launches > 0) {
      how += fmt::format("{}{} launches", how.empty() ? "" : " and ", end.decided_launches);
    }
    text += fmt::format("               of a winner that {} decides: {}, {}\n", end.decided_by, how,
                        base::format_duration(end.decided_s()));
  }
  return text + fmt::format("               each measures speed alone, {}; --confirm changes how many\n",
                            base::format_duration(end.one_s()));
}

}  // namespace

int expected_trials(const Study& study) {
  if (study.search.budget_s <= 0) {
    return 0;
  }
  double one = typical_load_s(study.backend) + measure_s(study, study.space.default_config(), PlanRates());
  return static_cast<int>(std::clamp(study.search.budget_s / one, 1.0, 1e6));
}

Plan make_plan(const Study& study, const PlanRates& rates, double available_s, int list_at_most,
               const PlanMemory& memory, const std::vector<std::string>& in_place, int confirm_launches) {
  const search::StrategyInfo* info = search::find_strategy(study.search.strategy);
  AR_CHECK(info != nullptr, "a study with an unknown strategy");
  AR_CHECK(rates.decode_tps > 0 && rates.prefill_tps > 0, "a plan without speeds");
  Plan plan;
  plan.strategy = study.search.strategy;
  plan.axes = study.space.axes.size();
  plan.grid_size = study.space.grid_size();
  plan.max_trials = study.search.max_trials;
  plan.rates = rates;
  plan.load_worst_s = study.backend.load_timeout_s;
  plan.load_s = typical_load_s(study.backend);
  plan.available_s = available_s;
  plan.host_bytes = memory.host_bytes;

  search::Limits limits{plan.max_trials, expected_trials(study)};
  limits.pareto = study.objective.pareto;
  limits.in_place = in_place;
  auto strategy = info->make(study.space, study.search.seed, limits);
  std::vector<double> speed_only;         // seconds, of each that is launched
  std::optional<search::Config> serving;  // what the last trial launched
  const search::Config usual = study.space.default_config();
  while (static_cast<int>(plan.first.size()) < list_at_most) {
    auto proposal = strategy->ask();
    if (!proposal) {
      break;
    }
    if (proposal->phase == "perturb" || proposal->phase == "model") {  // what it is depends on outcomes
      plan.open_ended = true;
      break;
    }
    PlannedTrial trial;
    trial.phase = proposal->phase;
    trial.change = search::describe(study.space, proposal->config, usual);
    trial.memory_bytes = memory.bytes ? memory.bytes(proposal->config) : 0;
    trial.cannot_fit = memory.cannot_fit ? memory.cannot_fit(proposal->config) : "";
    search::Outcome outcome;
    if (trial.cannot_fit.empty()) {  // every trial alike: nothing wins
      trial.measure_s = measure_s(study, proposal->config, rates);
      speed_only.push_back(speed_only_s(study, proposal->config, rates));
      trial.in_place = serving && search::differ_in_place(study.space, in_place, *serving, proposal->config);
      serving = proposal->config;
      outcome.ok = outcome.feasible = true;
      outcome.objective = {1.0};
    } else {
      outcome.out_of_memory = outcome.predicted = true;
    }
    plan.first.push_back(std::move(trial));
    strategy->tell(proposal->config, outcome);
  }
  auto launched = std::count_if(plan.first.begin(), plan.first.end(),
                                [](const PlannedTrial& trial) { return trial.cannot_fit.empty(); });
  for (const PlannedTrial& trial : plan.first) {
    plan.measure_s += trial.measure_s / static_cast<double>(std::max<std::ptrdiff_t>(launched, 1));
  }
  if (!plan.open_ended && static_cast<int>(plan.first.size()) < list_at_most) {
    plan.max_trials = static_cast<int>(plan.first.size());  // the space holds no more
  }
  if (info->name == "grid" && static_cast<int>(plan.first.size()) == list_at_most) {
    plan.max_trials = list_at_most + rest_of_grid(*strategy, plan.max_trials - list_at_most);
  }
  double speed_s = 0;
  for (double seconds : speed_only) {
    speed_s += seconds / static_cast<double>(speed_only.size());
  }
  plan.end = planned_end(study, in_place, confirm_launches, plan.load_s, speed_s);
  const int skipped = static_cast<int>(plan.first.size()) - static_cast<int>(launched);
  plan.end.repeats = (study.search.repeats - 1) * std::max(plan.max_trials - skipped, 0);
  plan.end.anchors = study.search.anchor_every > 0 ? plan.end.repeats / study.search.anchor_every : 0;
  if (confirm_launches > 0) {  // as the loop keeps it
    const int least = 2 * std::max(kLeastPairs, confirm_launches);
    plan.kept_s = reserve_s(0, 0, least * plan.end.launch_s, available_s);
    plan.kept_worst_s =
        reserve_s(0, 0, least * (plan.end.launch_s - plan.load_s + plan.load_worst_s), available_s);
  }
  plan.fits = trials_in(plan, plan.load_s, plan.kept_s);
  plan.fits_worst = trials_in(plan, plan.load_worst_s, plan.kept_worst_s);
  return plan;
}

std::string to_text(const Study& study, const Plan& plan) {
  std::string text = fmt::format("Study {}: {} {}, {} points in the full grid\n", study.name, plan.axes,
                                 plan.axes == 1 ? "axis" : "axes", grouped(plan.grid_size));
  text += fmt::format("  model        {}\n", study.model);
  text += fmt::format("  strategy     {}, seed {}, at most {} trials\n", study.search.strategy,
                      study.search.seed, study.search.max_trials);
  if (study.search.plugin) {
    text += fmt::format("  plugin       {}: up to {:.0f}% of these trials, instead of what follows\n",
                        study.search.plugin->name, 100 * study.search.plugin->share);
  }
  text += fmt::format("\nThe first {} trials\n", plan.first.size());
  text += fmt::format("  {:>3}  {:<8} {:<44} {:>9}{}\n", "#", "phase", "differs from the default",
                      "measuring", memory_column(plan, "memory"));
  for (size_t i = 0; i < plan.first.size(); ++i) {
    const PlannedTrial& trial = plan.first[i];
    bool usual = trial.phase == "default";
    bool fits = trial.cannot_fit.empty();
    text += fmt::format("  {:>3}  {:<8} {:<44} {:>9}{}{}\n", i + 1, trial.phase,
                        usual ? "nothing: what all others are compared with" : trial.change,
                        fits ? base::format_duration(trial.measure_s) : "-",
                        memory_column(plan, memory_text(trial)),
                        fits ? (trial.in_place ? "  in place" : "") : "  cannot fit: skipped");
  }
  int more = plan.max_trials - static_cast<int>(plan.first.size());
  if (plan.open_ended && more > 0) {
    text += fmt::format("  then up to {} that depend on what these show{}\n", more,
                        plan.strategy == "two-phase" ? ": winners together, steps from the best point" : "");
  } else if (more > 0) {
    text += fmt::format("  and {} more of the kind\n", more);
  }

  text += "\nThe night (an estimate: nothing has been launched)\n";
  text += fmt::format("  one trial    {} to load ({} at worst), then {} to measure on average\n",
                      base::format_duration(plan.load_s), base::format_duration(plan.load_worst_s),
                      base::format_duration(plan.measure_s));
  text += fmt::format(
      "  assumed      {:.0f} tok/s decode, {:.0f} tok/s prefill; --decode-tps and --prefill-tps change it\n",
      plan.rates.decode_tps, plan.rates.prefill_tps);
  if (auto shared = std::count_if(plan.first.begin(), plan.first.end(),
                                  [](const PlannedTrial& trial) { return trial.in_place; })) {
    text += fmt::format("  in place     {} of them change the running server and load nothing\n", shared);
  }
  if (plan.end.repeats > 0) {
    text += fmt::format(
        "  repeats      {} {} after the search, {} of each configuration in all{}: {}\n", plan.end.repeats,
        plan.end.in_place ? "changes in place" : "launches", study.search.repeats,
        plan.end.anchors > 0 ? fmt::format(", and {} of the default between them", plan.end.anchors) : "",
        base::format_duration(plan.end.repeats_s()));
  }
  text += end_text(plan.end);
  text += memory_line(plan);
  text += "  time         " + limits_text(plan, study);
  text += fmt::format("  listed above take about {}\n", base::format_duration(time_of_first(plan)));
  if (plan.available_s > 0) {
    text += fmt::format("  room for     about {} of {} trials{}; {} if every load takes its time-out\n",
                        plan.fits, plan.max_trials,
                        plan.kept_s > 0 ? fmt::format(" (at least {} are kept for the end)",
                                                      base::format_duration(plan.kept_s))
                                        : "",
                        plan.fits_worst);
    text += left_out_text(plan);
  } else {
    double rest = std::max(more, 0) * (plan.load_s + plan.measure_s);
    text += fmt::format("  all {} trials about {}{}\n", plan.max_trials,
                        base::format_duration(time_of_first(plan) + rest + plan.end.repeats_s()),
                        plan.end.confirm_most > 0 ? ", the end apart" : "");
  }
  return text;
}

std::string grouped(double number) {
  if (number >= 1e15) {
    return fmt::format("{:.2g}", number);
  }
  std::string digits = fmt::format("{:.0f}", number);
  std::string result;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) {
      result += ',';
    }
    result += digits[i];
  }
  return result;
}

}  // namespace study
