// One contract for every strategy over several spaces, then what is particular to two-phase.

#include "search/strategy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "search/axis_facts.h"
#include "search/sweep.h"
#include "tests/search/spaces.h"

using search::Config;
using search::Outcome;
using search::Proposal;
using search::Space;
using search::Value;

namespace {

using Server = std::function<Outcome(const Space&, const Config&)>;

std::string text_of(const Space& space, const Config& config, std::string_view axis) {
  return search::to_string(config[space.index_of(axis)]);
}

double number_of(const Space& space, const Config& config, std::string_view axis) {
  return static_cast<double>(std::get<int64_t>(config[space.index_of(axis)]));
}

Outcome measured(std::vector<double> objective) {
  return {true, false, true, std::move(objective), 0.01};
}

// A deterministic landscape for any space: the position of every value counts.
Outcome smooth(const Space& space, const Config& config) {
  double sum = 10;
  for (size_t i = 0; i < config.size(); ++i) {
    sum += static_cast<double>(space.axes[i].index_of(config[i]) * (i + 1));
  }
  return measured({sum});
}
Outcome nothing_feasible(const Space&, const Config&) {
  return {true, false, false, {1.0}, 0};
}
Outcome always_out_of_memory(const Space&, const Config&) {
  return {false, true, false, {}, 0};
}
Outcome always_crashes(const Space&, const Config&) {
  return {};
}

struct Run {
  std::vector<Proposal> proposals;
  std::vector<Outcome> outcomes;
};

Run run(search::Strategy& strategy, const Space& space, const Server& server, int limit = 10000) {
  Run result;
  while (auto proposal = strategy.ask()) {
    REQUIRE_LT(result.proposals.size(), limit);
    result.proposals.push_back(*proposal);
    result.outcomes.push_back(server(space, proposal->config));
    strategy.tell(proposal->config, result.outcomes.back());
  }
  return result;
}

void check_contract(const search::StrategyInfo& info, const Space& space, const Server& server,
                    int max_trials) {
  auto strategy = info.make(space, 7, {max_trials});
  std::set<std::string> told;
  std::vector<Config> out_of_memory;
  std::vector<std::pair<Config, Outcome>> journal;
  std::vector<std::string> order;
  while (true) {
    auto proposal = strategy->ask();
    auto again = strategy->ask();
    REQUIRE_EQ(proposal.has_value(), again.has_value());
    if (!proposal) {
      break;
    }
    CHECK_FALSE(strategy->done());
    std::string key = search::key_of(proposal->config);
    CHECK_EQ(key, search::key_of(again->config));
    CHECK_EQ(key, search::key_of(space.canonical(proposal->config)));
    CHECK_EQ(space.violated(proposal->config), "");
    CHECK(search::from_json(space, search::to_json(space, proposal->config)).ok());
    CHECK_FALSE(proposal->rationale.empty());
    for (const Config& failed : out_of_memory) {
      CHECK_FALSE(search::needs_at_least(space, proposal->config, failed));
    }
    REQUIRE(told.insert(key).second);
    REQUIRE_LE(told.size(), max_trials);
    if (told.size() == 1) {
      CHECK_EQ(proposal->phase, "default");
      CHECK_EQ(key, search::key_of(space.default_config()));
    }
    Outcome outcome = server(space, proposal->config);
    if (outcome.out_of_memory) {
      out_of_memory.push_back(proposal->config);
    }
    strategy->tell(proposal->config, outcome);
    journal.emplace_back(proposal->config, outcome);
    order.push_back(key);
  }
  CHECK(strategy->done());
  CHECK_FALSE(told.empty());

  // The same seed gives the same study, and a journal replayed without asking goes on where it stopped.
  for (size_t cut : {size_t{0}, order.size() / 2, order.size()}) {
    auto resumed = info.make(space, 7, {max_trials});
    for (size_t i = 0; i < cut; ++i) {
      resumed->tell(journal[i].first, journal[i].second);
    }
    auto next = resumed->ask();
    CAPTURE(cut);
    REQUIRE_EQ(next.has_value(), cut < order.size());
    if (next) {
      CHECK_EQ(search::key_of(next->config), order[cut]);
    }
  }
}

}  // namespace

TEST_CASE("every strategy keeps the contract on every space") {
  const std::vector<std::pair<std::string, Space>> all_spaces = {{"single point", spaces::single_point()},
                                                                 {"tiny", spaces::tiny()},
                                                                 {"constrained", spaces::constrained()},
                                                                 {"conditional", spaces::conditional()},
                                                                 {"mission", spaces::mission()}};
  const std::vector<std::pair<std::string, Server>> all_servers = {
      {"smooth", smooth},
      {"nothing feasible", nothing_feasible},
      {"always out of memory", always_out_of_memory},
      {"always crashes", always_crashes}};
  for (const auto& info : search::strategies()) {
    for (const auto& named_space : all_spaces) {
      const auto& space_name = named_space.first;
      const auto& space = named_space.second;
      for (const auto& named_server : all_servers) {
        const auto& server_name = named_server.first;
        const auto& server = named_server.second;
        for (int max_trials : {1, 2, 7, 60}) {
          CAPTURE(info.name);
          CAPTURE(space_name);
          CAPTURE(server_name);
          CAPTURE(max_trials);
          check_contract(info, space, server, max_trials);
        }
      }
    }
  }
}

TEST_CASE("small spaces are used up by random and grid") {
  for (std::string_view name : {"random", "grid"}) {
    Space space = spaces::conditional();
    auto strategy = search::find_strategy(name)->make(space, 1, {1000});
    // none; ngram with n_max 4; ngram with n_max 8 and 16, three n_min each
    CHECK_EQ(run(*strategy, space, smooth).proposals.size(), 1 + 1 + 2 * 3);
  }
}

TEST_CASE("strategies learn from configurations they did not propose") {
  for (const auto& info : search::strategies()) {
    Space space = spaces::tiny();
    auto strategy = info.make(space, 1, {60});
    auto first = strategy->ask();
    Config foreign = space.default_config();
    foreign[0] = Value(int64_t{2});
    strategy->tell(foreign, smooth(space, foreign));
    CHECK_EQ(search::key_of(strategy->ask()->config), search::key_of(first->config));
    Run rest = run(*strategy, space, smooth);
    for (const Proposal& proposal : rest.proposals) {
      CHECK_NE(search::key_of(proposal.config), search::key_of(foreign));
    }
    // The pending proposal told by somebody else is not proposed again.
    auto other = info.make(space, 1, {60});
    other->tell(other->ask()->config, measured({1}));
    CHECK_NE(search::key_of(other->ask()->config), search::key_of(space.default_config()));
  }
}

TEST_CASE("better is lexicographic with a tolerance on all entries but the last") {
  using search::better;
  CHECK(better(measured({32768, 10}), measured({16384, 24}), 0.01));
  CHECK(better(measured({16384, 24}), measured({16390, 20}), 0.01));
  CHECK_FALSE(better(measured({16384, 24}), measured({16384, 24}), 0.01));
  CHECK(better(measured({16384, 24.1}), measured({16384, 24}), 0.01));
  CHECK(better(measured({0}), nothing_feasible(Space(), Config()), 0.01));
  CHECK(better(nothing_feasible(Space(), Config()), always_crashes(Space(), Config()), 0.01));
  CHECK_FALSE(better(nothing_feasible(Space(), Config()), nothing_feasible(Space(), Config()), 0.01));
  CHECK(better(measured({-5}), measured({-6}), 0.01));
}

TEST_CASE("the best of many does not drift: an earlier entry is not given away step by step") {
  std::vector<Outcome> outcomes;
  for (int i = 0; i < 8; ++i) {  // each within 1% of the one before, and faster
    outcomes.push_back(measured({1000.0 - 6 * i, 10.0 + i}));
  }
  std::vector<const Outcome*> all;
  for (const Outcome& outcome : outcomes) {
    all.push_back(&outcome);
  }
  CHECK_EQ(search::best_of(all, 0.01), 1);  // 994 is within 1% of 1000, 988 is not
  std::reverse(all.begin(), all.end());
  CHECK_EQ(search::best_of(all, 0.01), 6);  // whatever the order
  Outcome failed = nothing_feasible(Space(), Config()), equal = outcomes[1];
  std::vector<const Outcome*> more = {&failed, &outcomes[1], &equal};
  CHECK_EQ(search::best_of(more, 0.01), 1);
  CHECK_EQ(search::best_of(std::vector<const Outcome*>{&failed}, 0.01), std::nullopt);
  CHECK_EQ(search::best_of(std::vector<const Outcome*>{}, 0.01), std::nullopt);
  Outcome unknown = measured({std::nan(""), 99}), negative = measured({-5, 1});
  CHECK_EQ(search::best_of(std::vector<const Outcome*>{&unknown, &negative}, 0.01), 1);
}

TEST_CASE("the sweep spreads its values and fits its half of the budget") {
  Space space = spaces::mission();
  auto points = search::plan_sweep(space, 100);
  auto name = [&](size_t i) {
    return space.axes[points[i].axis].name + "=" +
           search::to_string(space.axes[points[i].axis].values[points[i].value]);
  };
  REQUIRE_EQ(points.size(), 3 + 3 + 3 + 2 + 1);
  CHECK_EQ(name(0), "cache_type_k=q8_0");
  CHECK_EQ(name(2), "cache_type_k=tbq3_0");
  CHECK_EQ(name(6), "ctx_size=2048");
  CHECK_EQ(name(8), "ctx_size=98304");
  CHECK_EQ(name(9), "n_threads=1");
  CHECK_EQ(name(11), "mmap=false");

  // With little room a second value of an important axis is worth as much as the first of another.
  points = search::plan_sweep(space, 5);
  REQUIRE_EQ(points.size(), 5);
  CHECK_EQ(name(0), "cache_type_k=q8_0");
  CHECK_EQ(name(1), "cache_type_k=tbq3_0");
  CHECK_EQ(name(2), "cache_type_v=tbq3_0");
  CHECK_EQ(name(3), "ctx_size=98304");
  points = search::plan_sweep(space, 2);
  REQUIRE_EQ(points.size(), 2);
  CHECK_EQ(name(1), "cache_type_v=tbq3_0");
  CHECK(search::plan_sweep(space, 0).empty());

  // What breaks a constraint by itself is left out: n_batch 128 is under n_ubatch 512.
  space = spaces::constrained();
  for (const auto& point : search::plan_sweep(space, 100)) {
    CHECK_EQ(space.violated(search::changed(space, space.default_config(), point.axis, point.value)), "");
  }
  // An inactive axis has nothing to sweep.
  CHECK_EQ(search::plan_sweep(spaces::conditional(), 100).size(), 1);

  space = spaces::mission();
  space.axes[0].sweep_values = 1;
  CHECK_EQ(search::plan_sweep(space, 100).size(), 10);
}

TEST_CASE("two-phase: default, sweep in at most half of the trials, then steps from the best") {
  Space space = spaces::mission();
  auto strategy = search::find_strategy("two-phase")->make(space, 3, {20});
  Run result = run(*strategy, space, smooth);
  int sweeps = 0;
  for (size_t i = 0; i < result.proposals.size(); ++i) {
    sweeps += result.proposals[i].phase == "sweep" ? 1 : 0;
  }
  CHECK_EQ(sweeps, 10);
  CHECK_EQ(result.proposals[11].phase, "perturb");
  CHECK(result.proposals[11].rationale.starts_with("the best value of each axis together"));
  // Every axis is independent here, so the combination is already among the best.
  CHECK_GT(result.outcomes[11].objective[0], 30);
}

TEST_CASE("two-phase stops when nothing improves") {
  Space space = spaces::constrained();
  auto strategy = search::find_strategy("two-phase")->make(space, 3, {1000});
  Run result = run(*strategy, space, [](const Space&, const Config&) { return measured({5}); });
  int steps = 0;
  for (const Proposal& proposal : result.proposals) {
    steps += proposal.phase == "perturb" ? 1 : 0;
  }
  CHECK_EQ(steps, 8);
}

TEST_CASE("two-phase climbs a path that single steps open one after the other") {
  // n_ubatch may only follow n_batch: the optimum needs several steps in company.
  Space space;
  space.axes = {spaces::axis("a", {0, 1, 2, 3, 4, 5, 6, 7}, 0),
                spaces::axis("b", {0, 1, 2, 3, 4, 5, 6, 7}, 0)};
  space.constraints = {*search::Expression::parse("a - b <= 1 and b - a <= 1")};
  auto strategy = search::find_strategy("two-phase")->make(space, 5, {60});
  double best = 0;
  Run result = run(*strategy, space, [&](const Space& s, const Config& c) {
    Outcome outcome = measured({1 + number_of(s, c, "a") + number_of(s, c, "b")});
    best = std::max(best, outcome.objective[0]);
    return outcome;
  });
  CHECK_EQ(best, 15);
  CHECK_LT(result.proposals.size(), 50);
}

namespace {

// The mission's box: f16 runs out of memory beyond 16K, q8_0 with q4_0 decodes at 9 tok/s, 24 else; 3-bit
// keys lose quality. The cache beside 95 GB of weights may take 5.5 GiB: 62 layers x 8 heads x 128.
Outcome mission_box(const Space& space, const Config& config) {
  auto bits = [&](std::string_view axis) {
    return search::memory_demand(axis, config[space.index_of(axis)]).value_or(16);
  };
  double tokens = number_of(space, config, "ctx_size");
  double kv_gib = tokens * 62 * 8 * 128 * (bits("cache_type_k") + bits("cache_type_v")) / 8 / (1 << 30);
  if (kv_gib > 5.5) {
    return {false, true, false, {}, 0};
  }
  std::string k = text_of(space, config, "cache_type_k");
  std::string v = text_of(space, config, "cache_type_v");
  bool mixed = (k == "q8_0" && v == "q4_0") || (k == "q4_0" && v == "q8_0");
  double tps = (mixed ? 9 : 24) * (number_of(space, config, "n_threads") == 1 ? 0.4 : 1);
  bool fine = k != "tbq3_0" && tps > 0.9 * 24;
  // Noise that depends on the configuration alone, 1%.
  size_t hash = std::hash<std::string>{}(search::key_of(config));
  tps *= 1 + 0.01 * (static_cast<double>(hash % 1000) / 500 - 1);
  return {true, false, fine, {tokens, tps}, 0.01};
}

}  // namespace

TEST_CASE("two-phase finds the mission's answer: 4-bit keys, 3-bit values, 96K") {
  Space space = spaces::mission();
  for (int expected : {0, 24, 16, 12}) {  // 0: room for 40 trials
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      auto strategy = search::find_strategy("two-phase")->make(space, seed, {40, expected});
      Outcome best;
      Config winner;
      size_t found_at = 0;
      Run result = run(*strategy, space, [&](const Space& s, const Config& c) {
        Outcome outcome = mission_box(s, c);
        if (outcome.feasible && search::better(outcome, best, search::kObjectiveTolerance)) {
          best = outcome;
          winner = c;
        }
        found_at += number_of(s, winner, "ctx_size") < 98304 ? 1 : 0;
        return outcome;
      });
      CAPTURE(seed);
      CAPTURE(expected);
      CHECK_EQ(number_of(space, winner, "ctx_size"), 98304);
      CHECK_NE(text_of(space, winner, "cache_type_k"), "tbq3_0");
      CHECK_LT(found_at, expected > 0 ? static_cast<size_t>(expected) : 20);
    }
  }
}
