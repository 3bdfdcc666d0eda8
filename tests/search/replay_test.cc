// Replay: what it counts is checked on grids small enough to know by hand; then the strategies against each other.

#include "search/replay.h"

#include <doctest/doctest.h>

#include <array>
#include <limits>
#include <map>

#include "bench/replay_plot.h"
#include "bench/synthetic_grids.h"
#include "search/pareto.h"
#include "search/surrogate.h"
#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;

namespace {

// Proposes what it is given, in order.
class Script final : public search::Strategy {
 public:
  explicit Script(std::vector<Proposal> proposals) : proposals_(std::move(proposals)) {}
  std::optional<Proposal> ask() override {
    return at_ < proposals_.size() ? std::optional(proposals_[at_]) : std::nullopt;
  }
  void tell(const Config&, const Outcome& outcome) override {
    told.push_back(outcome);
    ++at_;
  }
  void know(const Config&, const Outcome&) override {}
  bool done() const override { return at_ == proposals_.size(); }
  std::vector<Outcome> told;

 private:
  std::vector<Proposal> proposals_;
  size_t at_ = 0;
};

Config at(int64_t threads, int64_t batch) {
  return {threads, batch};
}
Proposal ask_for(const Config& config) {
  return {config, "random", "scripted"};
}

// n_threads 1..4 by n_batch 1..2; the default (1, 1) runs at 100, (4, 2) at 200.
search::RecordedGrid small_grid(const std::vector<bool>& noisy = {true}) {
  Space space;
  space.axes = {spaces::axis("n_threads", {1, 2, 3, 4}, 0), spaces::axis("n_batch", {1, 2}, 0)};
  search::RecordedGrid grid(space, noisy);
  grid.add(at(1, 1), measured({100}));
  grid.add(at(2, 1), measured({97}));
  grid.add(at(3, 1), out_of_memory());
  grid.add(at(4, 1), measured({100.5}));
  grid.add(at(1, 2), measured({197}));
  grid.add(at(4, 2), measured({196}));
  grid.add(at(4, 2), measured({204}));  // launched twice
  grid.add(at(4, 2), forecast());       // says nothing beside launches
  grid.finish();
  return grid;
}

}  // namespace

TEST_CASE("a limit on a speed flips with noise, and what is claimed is judged by what was told") {
  Space space;
  space.axes = {spaces::axis("n_threads", {1, 2, 3}, 0)};
  search::RecordedGrid grid(space, {false, true});
  grid.add({int64_t{1}}, measured({1, 100}));
  grid.add({int64_t{2}}, measured({2, 95}));  // ahead by its first entry, and truly feasible by a hair
  Outcome slow = measured({3, 93});
  slow.feasible = false;  // truly just below the limit
  grid.add({int64_t{3}}, slow);
  grid.finish();
  auto play = [&](double noise) {
    int told_feasible = 0, told_broken = 0, false_winners = 0, claimed = 0;
    for (uint64_t seed = 1; seed <= 200; ++seed) {
      Script script({ask_for({int64_t{1}}), ask_for({int64_t{2}}), ask_for({int64_t{3}})});
      search::ReplayOptions options;
      options.noise = noise;
      const auto run = search::replay(grid, script, seed, options);
      told_broken += script.told[1].feasible ? 0 : 1;
      told_feasible += script.told[2].feasible ? 1 : 0;
      false_winners += run.false_winner ? 1 : 0;
      claimed += run.claimed ? 1 : 0;
      CHECK_LE(run.shortfall, 1);
      CHECK_GE(run.reached.value_or(2), 2);  // the third, however lucky, is not the best
    }
    return std::array{told_broken, told_feasible, false_winners, claimed};
  };
  CHECK(play(0.05) == std::array{0, 0, 0, 200});  // without margins the truth is told
  grid.set_margin({int64_t{2}}, {std::numeric_limits<double>::infinity(), 0.01});
  grid.set_margin({int64_t{3}}, {-0.01, std::numeric_limits<double>::infinity()});
  CHECK(play(0) == std::array{0, 0, 0, 200});
  const auto [broken, feasible, false_winners, claimed] = play(0.05);
  CHECK_GT(broken, 60);
  CHECK_GT(feasible, 60);
  CHECK_GT(false_winners, 0);  // "not feasible" can occur now; fresh launches catch most
  CHECK_LT(false_winners, 60);
  CHECK_LT(claimed, 190);
}

TEST_CASE("near the best of a front is near one point of it in every entry") {
  Space space;
  space.axes = {spaces::axis("n_threads", {1, 2, 3, 4, 5}, 0)};
  search::RecordedGrid grid(space, {true, true}, true);
  const double points[][2] = {{100, 10}, {50, 20}, {98.5, 9.9}, {97, 10}, {60, 19}};
  for (int64_t i = 0; i < 5; ++i) {
    grid.add({i + 1}, measured({points[i][0], points[i][1]}));
  }
  grid.finish();
  CHECK_EQ(grid.census().front, 3);
  CHECK_EQ(grid.census().near_best, 4);  // the fourth has 97% of the first entry
}

TEST_CASE("what the machine's speed did between rounds and within them is no part of a grid") {
  Space space;
  space.axes = {spaces::axis("n_threads", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 0),
                spaces::axis("n_batch", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0)};
  auto record = [&](bool slow, double noise) {
    search::RecordedGrid grid(space, {false, true});
    search::Rng rng(5, 0);
    int ran = 0;
    for (int round = 0; round < 3; ++round) {
      for (int64_t threads = 1; threads <= 16; ++threads) {
        for (int64_t batch = 1; batch <= 10; ++batch, ++ran) {
          if (round > 0 && batch == 3) {
            continue;  // launched in the first round only
          }
          const double truth = 100 + static_cast<double>(threads * batch);
          // Two thirds of the speed in the first round; later it swings by a tenth to either side within an hour.
          const double speed = round == 0 ? 0.67 : 1 + 0.1 * std::sin(ran / 25.0);
          const double luck = std::exp(noise * (rng.uniform() - 0.5) * std::sqrt(12.0));
          grid.add(at(threads, batch), measured({7, truth * luck * (slow ? speed : 1)}), round);
        }
      }
    }
    grid.finish();
    return grid;
  };
  const auto steady = record(false, 0.03), drifting = record(true, 0.03);
  CHECK_EQ(steady.census().scatter, doctest::Approx(0.03).epsilon(0.1));
  CHECK_LT(steady.census().swing, 0.03);
  CHECK_EQ(drifting.census().scatter, doctest::Approx(0.03).epsilon(0.15));
  CHECK_GT(drifting.census().swing, 0.5);
  // A point that ran in the slow round alone stands where it would have stood.
  auto share = [](const search::RecordedGrid& grid, int64_t batch) {
    double sum = 0;
    for (int64_t threads = 1; threads <= 16; ++threads) {
      sum += grid.find(at(threads, batch))->objective[1] / (100 + static_cast<double>(threads * batch)) / 16;
    }
    return sum;
  };
  CHECK_EQ(share(drifting, 3) / share(drifting, 4), doctest::Approx(1).epsilon(0.04));
  CHECK_EQ(drifting.find(at(1, 1))->objective[0], 7);  // no speed: not touched
  // Recorded once: nothing can be told, and nothing is changed.
  search::RecordedGrid once(space, {true});
  for (int64_t threads = 1; threads <= 16; ++threads) {
    once.add(at(threads, 1), measured({static_cast<double>(threads)}), static_cast<int>(threads % 2));
  }
  once.finish();
  CHECK_EQ(once.find(at(3, 1))->objective[0], doctest::Approx(3));
}

TEST_CASE("replay counts trials, failures and what is named, by the grid's truth") {
  const search::RecordedGrid grid = small_grid();
  auto census = grid.census();
  CHECK_EQ(census.points, 7);
  CHECK_EQ(census.launched, 6);
  CHECK_EQ(census.inferred, 1);
  CHECK_EQ(census.once, 4);
  CHECK_EQ(census.feasible, 5);
  CHECK_EQ(census.out_of_memory, 1);  // (3, 2) needs more than it and was never launched
  CHECK_EQ(census.failed, 0);
  CHECK_EQ(census.near_best, 2);
  CHECK_EQ(census.missing, 1);
  CHECK(census.counted);
  CHECK_EQ(census.scatter, doctest::Approx(std::sqrt(2.0) * 0.02));
  CHECK_EQ(search::key_of(grid.best()->config), search::key_of(at(4, 2)));

  search::ReplayOptions quiet;
  quiet.noise = 0;
  Proposal doomed = ask_for(at(4, 2));
  doomed.doomed = "too large";
  Script script({ask_for(at(1, 1)), ask_for(at(3, 1)), doomed, ask_for(at(2, 2)), ask_for(at(2, 1)),
                 ask_for(at(1, 2))});
  auto run = search::replay(grid, script, 1, quiet);
  REQUIRE_EQ(run.trials.size(), 5);  // the forecast is no launch
  CHECK(script.told[2].predicted);
  CHECK(script.told[1].out_of_memory);
  CHECK_EQ(run.unknown, 1);
  CHECK_EQ(run.failed, 2);
  CHECK_EQ(run.reached, std::optional<int>(5));
  CHECK_EQ(run.trials[0].shortfall, doctest::Approx(0.5));
  CHECK_EQ(run.trials[4].shortfall, doctest::Approx(0.015));
  CHECK(run.claimed);
  CHECK_FALSE(run.false_winner);
  CHECK(run.gain_found);
  CHECK_EQ(run.named_shortfall, doctest::Approx(0.015));

  // Never near the best, cut off, and only the default is there to name.
  Script poor({ask_for(at(1, 1)), ask_for(at(2, 1)), ask_for(at(4, 2))});
  quiet.max_trials = 2;
  auto cut = search::replay(grid, poor, 1, quiet);
  CHECK_FALSE(cut.reached.has_value());
  CHECK_FALSE(cut.claimed);
  CHECK(cut.gain_exists);
  CHECK_FALSE(cut.gain_found);
  auto sum = search::summarize({run, cut, run});
  CHECK_EQ(sum.median, std::optional<double>(5));
  CHECK_FALSE(sum.upper.has_value());  // between a trial and never
  CHECK_EQ(sum.reached, doctest::Approx(2.0 / 3));

  // Progress: the median share of the best; a run that ended keeps what it had.
  const auto progress = search::median_progress({run, cut, run}, 7);
  REQUIRE_EQ(progress.size(), 7);
  CHECK_EQ(progress[0], doctest::Approx(0.5));
  CHECK_EQ(progress[6], doctest::Approx(0.985));
  const std::string svg = bench::progress_svg({{"a < b", {{"x", progress}, {"y", {0, 0.5, 1}}}}, {"c", {}}});
  size_t lines = 0;
  for (size_t at = svg.find("<polyline"); at != std::string::npos; at = svg.find("<polyline", at + 1)) {
    ++lines;
  }
  CHECK_EQ(lines, 2);
  CHECK_NE(svg.find("a &lt; b"), std::string::npos);
  CHECK_EQ(svg.find("nan"), std::string::npos);
}

TEST_CASE("replay's noise: by seed and launch, on speeds alone, and it does not make winners of nothing") {
  const search::RecordedGrid grid = small_grid();
  std::map<std::string, double> seen;
  double sum = 0, squares = 0;
  int claimed = 0, wrong = 0;
  const int runs = 400;
  for (uint64_t seed = 1; seed <= runs; ++seed) {
    // 97 and 100.5 against 100: nothing to be found.
    Script script({ask_for(at(1, 1)), ask_for(at(2, 1)), ask_for(at(4, 1))});
    auto run = search::replay(grid, script, seed, {});
    const double log = std::log(script.told[0].objective[0] / 100);
    sum += log;
    squares += log * log;
    CHECK_EQ(script.told[0].noise, doctest::Approx(0.05));
    claimed += run.claimed ? 1 : 0;
    wrong += run.false_winner ? 1 : 0;
    Script again({ask_for(at(2, 1)), ask_for(at(1, 1))});
    search::replay(grid, again, seed, {});
    CHECK_EQ(again.told[1].objective[0], script.told[0].objective[0]);
  }
  CHECK_LT(std::fabs(sum / runs), 0.01);
  CHECK_EQ(std::sqrt(squares / runs), doctest::Approx(0.05).epsilon(0.15));
  CHECK_LE(wrong, runs / 20);
  CHECK_LE(claimed, runs / 10);

  // An entry that is no speed is told as it is; drift swings by what was asked.
  const search::RecordedGrid exact = small_grid({false});
  search::ReplayOptions drifting;
  drifting.drift = 0.2;
  Script calm({ask_for(at(1, 1))});
  search::replay(exact, calm, 1, drifting);
  CHECK_EQ(calm.told[0].objective[0], 100);
  drifting.noise = 0;
  double least = 1e9, most = 0;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Script script({ask_for(at(1, 1))});
    search::replay(grid, script, seed, drifting);
    least = std::min(least, script.told[0].objective[0]);
    most = std::max(most, script.told[0].objective[0]);
  }
  CHECK_GE(least, 80);
  CHECK_LT(least, 85);
  CHECK_LE(most, 120);
  CHECK_GT(most, 115);
}

TEST_CASE("fronts and their volume") {
  const std::vector<std::vector<double>> points = {{1, 3}, {2, 2}, {3, 1}, {1, 2}, {2, 2}, {0, 9}};
  CHECK_EQ(search::front_of(points), std::vector<size_t>{0, 1, 2, 5});
  CHECK_EQ(search::hypervolume(points, {0, 0}), doctest::Approx(6));  // {0, 9} lies on the floor
  CHECK_EQ(search::hypervolume({{1, 1, 1}, {2, 0.5, 1}}, {0, 0, 0}), doctest::Approx(1.5));
  CHECK_EQ(search::hypervolume({}, {0, 0}), 0);
  CHECK_EQ(search::hypervolume({{5}, {4}}, {1}), doctest::Approx(4));
}

TEST_CASE("the surrogate: exact where it was, an interaction from its parts, honest far away") {
  Space space;
  space.axes = {spaces::names("a", {"x", "y"}, 0), spaces::names("b", {"x", "y"}, 0),
                spaces::axis("n", {1, 2, 3, 4, 5}, 0)};
  std::vector<search::Levels> x;
  std::vector<double> y, noise;
  auto truth = [](const search::Levels& at) {
    return 1.0 + (at[0] == at[1] ? 0.5 : 0.0) + 0.1 * static_cast<double>(at[2]);
  };
  for (uint16_t a = 0; a < 2; ++a) {
    for (uint16_t b = 0; b < 2; ++b) {
      for (uint16_t n : {0, 2, 4}) {
        x.push_back({a, b, n});
        y.push_back(truth(x.back()));
        noise.push_back(0.01);
      }
    }
  }
  search::Surrogate model(space);
  model.fit(x, y, noise);
  const std::vector<search::Levels> asked = {{0, 0, 0}, {1, 1, 3}, {0, 1, 1}};
  auto predicted = model.predict(asked);
  CHECK_EQ(predicted[0].mean, doctest::Approx(1.5).epsilon(0.01));
  CHECK_LE(predicted[0].sigma, 0.0101);
  CHECK_EQ(predicted[1].mean, doctest::Approx(1.8).epsilon(0.04));
  CHECK_EQ(predicted[2].mean, doctest::Approx(1.1).epsilon(0.04));
  // One point says little of the others.
  model.fit(std::vector<search::Levels>{{0, 0, 0}}, std::vector<double>{1}, std::vector<double>{0.01});
  predicted = model.predict(asked);
  CHECK_GT(predicted[1].sigma, 2 * predicted[0].sigma);
}

namespace {

search::ReplaySummary play(const bench::NamedGrid& named, const char* strategy, int seeds, int trials = 60) {
  std::vector<search::ReplayRun> runs;
  for (uint64_t seed = 1; seed <= static_cast<uint64_t>(seeds); ++seed) {
    search::Limits limits{trials};
    limits.pareto = named.grid.pareto();
    auto made = search::find_strategy(strategy)->make(named.grid.space(), seed, limits);
    search::ReplayOptions options;
    options.max_trials = trials;
    runs.push_back(search::replay(named.grid, *made, seed, options));
  }
  return search::summarize(runs);
}

}  // namespace

TEST_CASE("the model needs half the launches of chance, and names the best") {
  for (const bench::NamedGrid& named :
       {bench::interaction_grid(), bench::infeasible_grid(), bench::cliff_grid()}) {
    CAPTURE(named.name);
    auto model = play(named, "model-based", 8), chance = play(named, "random", 40, 200);
    REQUIRE(model.median.has_value());
    CHECK_LE(*model.median, 0.5 * chance.median.value_or(200));
    CHECK_GE(model.reached, 0.9);
    CHECK_GE(model.gain_found, 0.9);
    CHECK_EQ(model.false_winners, 0);
  }
  const bench::NamedGrid front = bench::pareto_grid();
  auto model = play(front, "model-based", 3), chance = play(front, "random", 8);
  CHECK_LE(model.median.value_or(100), 45);
  CHECK_LT(model.mean_shortfall, 0.5 * chance.mean_shortfall);
}

TEST_CASE("hundreds of known launches: the best of them count, and a new point is asked for") {
  const bench::NamedGrid named = bench::wide_grid();
  auto strategy = search::find_strategy("model-based")->make(named.grid.space(), 1, search::Limits{1000});
  std::map<std::string, double> known;
  const auto& points = named.grid.points();
  for (size_t i = 0; i < points.size() && known.size() < 300; i += points.size() / 300) {
    strategy->tell(points[i].config, points[i].outcome);
    known[search::key_of(points[i].config)] = points[i].outcome.objective.back();
  }
  strategy->tell(named.grid.space().default_config(), *named.grid.find(named.grid.space().default_config()));
  auto proposal = strategy->ask();
  REQUIRE(proposal.has_value());
  CHECK_EQ(proposal->phase, "model");
  CHECK_FALSE(known.contains(search::key_of(proposal->config)));
  // Better than most of what it was told: chance would give the median.
  const search::Outcome* truth = named.grid.find(proposal->config);
  REQUIRE(truth != nullptr);
  size_t below = 0;
  for (const auto& [key, value] : known) {
    below += value < truth->objective.back() ? 1 : 0;
  }
  CHECK_GT(below, known.size() * 3 / 4);
}
