// Noise: repeats are pooled, the centre moves by real gains alone, and a true gain is found all the same.

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "search/incumbent.h"
#include "search/two_phase.h"
#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;

namespace {

Space five_axes() {
  Space space;
  space.axes = {spaces::axis("n_threads", {2, 4, 8}, 1), spaces::axis("n_batch", {128, 512, 2048}, 2),
                spaces::switches("mmap"), spaces::names("numa", {"disabled", "distribute", "isolate"}, 0),
                spaces::axis("n_draft", {0, 4, 16}, 0)};
  return space;
}

}  // namespace

namespace {

// As the driver ends a study: the four best are launched until each has three launches; the best mean wins.
const Config& after_finals(const Run& result, const std::function<double(const Config&, uint64_t)>& launch) {
  std::vector<size_t> order(result.outcomes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return result.outcomes[a].objective[0] > result.outcomes[b].objective[0];
  });
  order.resize(std::min<size_t>(order.size(), 4));
  size_t best = order[0];
  double most = 0;
  for (size_t i : order) {
    const Config& config = result.proposals[i].config;
    double mean = (result.outcomes[i].objective[0] + launch(config, 1) + launch(config, 2)) / 3;
    if (mean > most) {
      most = mean;
      best = i;
    }
  }
  return result.proposals[best].config;
}

}  // namespace

TEST_CASE("a true +10% on one value is in the winner, at 5% noise and 25 trials") {
  Space space = five_axes();
  int won = 0, leading = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    // Which value is the good one changes with the seed.
    size_t axis = seed % space.axes.size();
    size_t value = seed / space.axes.size() % space.axes[axis].values.size();
    if (value == space.axes[axis].default_index) {
      value = (value + 1) % space.axes[axis].values.size();
    }
    auto good = [&](const Config& c) { return search::equal(c[axis], space.axes[axis].values[value]); };
    auto launch = [&](const Config& c, uint64_t n) {
      return 24 * (good(c) ? 1.1 : 1) * std::exp(0.05 * normal(seed, search::key_of(c), n));
    };
    auto strategy = search::find_strategy("two-phase")->make(space, seed, {25});
    Run result =
        run(*strategy, space, [&](const Space&, const Config& c) { return measured({launch(c, 0)}, 0.05); });
    leading += good(winner(result).config) ? 1 : 0;
    won += good(after_finals(result, launch)) ? 1 : 0;
    CHECK_LE(result.launches, 25);
  }
  MESSAGE("in the best of single launches " << leading << ", after finals " << won << ", of 200");
  CHECK_GE(leading, 170);
  CHECK_GE(won, 180);
}

TEST_CASE("repeats of one configuration are pooled by their noise") {
  using search::pooled;
  Outcome sum = pooled({measured({1000, 20}, 0.02), measured({1000, 26}, 0.04)});
  CHECK_EQ(sum.objective[0], doctest::Approx(1000));
  CHECK_EQ(sum.objective[1], doctest::Approx((20 / 4.0 + 26 / 16.0) / (1 / 4.0 + 1 / 16.0)));
  CHECK_EQ(sum.noise, doctest::Approx(0.02 / std::sqrt(1.25)));
  // An unknown noise: plain means. A crash adds nothing. A limit must hold in more than half.
  sum = pooled({measured({20}, 0), Outcome{}, measured({26}, 0.04)});
  CHECK_EQ(sum.objective[0], doctest::Approx(23));
  CHECK(sum.feasible);
  Outcome missed = measured({20});
  missed.feasible = false;
  CHECK_FALSE(pooled({missed, measured({20})}).feasible);
  CHECK(pooled({missed, measured({20}), measured({21})}).feasible);
  CHECK(pooled({Outcome{}, out_of_memory()}).out_of_memory);

  // In the history: one entry, and the centre leaves a value that sinks.
  Space space = spaces::tiny();
  Config usual = space.default_config(), other = usual;
  other[0] = space.axes[0].values[1];
  search::History history(space);
  search::Incumbent incumbent;
  history.tell(usual, measured({20}, 0.02));
  CHECK(incumbent.update(history));
  history.tell(other, measured({30}, 0.02));
  CHECK(incumbent.update(history));
  for (int i = 0; i < 9; ++i) {
    history.tell(other, measured({15}, 0.02));
    incumbent.update(history);
  }
  CHECK_EQ(history.launched(), 2);
  CHECK_EQ(search::key_of(incumbent.get(history)->config), search::key_of(usual));
}

TEST_CASE("what an earlier study knew gives way to the first launch here, be it a failure") {
  Space space = spaces::tiny();
  Config usual = space.default_config(), other = usual, third = usual;
  other[0] = space.axes[0].values[1];
  third[1] = space.axes[1].values[1];
  search::History history(space);
  search::Incumbent incumbent;
  history.tell(usual, measured({20}, 0.02));
  history.know(usual, measured({90}, 0.02));  // has run here already
  CHECK_EQ(history.find(usual)->objective[0], 20);
  history.know(other, measured({30}, 0.02));
  history.know(other, measured({32}, 0.02));
  history.know(third, out_of_memory());
  incumbent.update(history);
  CHECK_EQ(history.known(), 2);
  CHECK_EQ(history.find(other)->objective[0], doctest::Approx(31));
  CHECK_EQ(search::key_of(incumbent.get(history)->config), search::key_of(other));
  SUBCASE("a crash") {
    history.tell(other, Outcome{});
    CHECK_FALSE(history.find(other)->ok);
  }
  SUBCASE("out of memory") {
    history.tell(other, out_of_memory());
    CHECK(history.ran_out_of_memory(other));
    CHECK(history.doomed(other));
  }
  SUBCASE("slower; further launches are pooled") {
    history.tell(other, measured({10}, 0.02));
    CHECK_EQ(history.find(other)->objective[0], 10);
    history.tell(other, measured({12}, 0.02));
    CHECK_EQ(history.find(other)->objective[0], doctest::Approx(11));
  }
  incumbent.update(history);
  CHECK_EQ(search::key_of(incumbent.get(history)->config), search::key_of(usual));
  history.tell(third, measured({40}, 0.02));
  CHECK(history.find(third)->feasible);
  CHECK_EQ(history.known(), 0);
  CHECK_EQ(history.launched(), 3);
}

TEST_CASE("a gain within the noise does not move the centre, one beyond it does") {
  Space space = spaces::tiny();
  Config usual = space.default_config(), other = usual;
  other[0] = space.axes[0].values[1];
  for (double gain : {1.03, 1.25}) {
    search::History history(space);
    search::Incumbent incumbent;
    history.tell(usual, measured({20}, 0.04));
    incumbent.update(history);
    history.tell(other, measured({20 * gain}, 0.04));
    CHECK_EQ(incumbent.update(history), gain > 1.1);
  }
}

TEST_CASE("where nothing matters the centre hardly moves") {
  Space space = five_axes();
  int moves = 0, most = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    auto strategy = search::find_strategy("two-phase")->make(space, seed, {60});
    Run result = run(*strategy, space, [&](const Space&, const Config& c) {
      return measured({24 * std::exp(0.05 * normal(seed, search::key_of(c)))}, 0.05);
    });
    search::History history(space);
    search::Incumbent incumbent;
    for (size_t i = 0; i < result.proposals.size(); ++i) {
      history.tell(result.proposals[i].config, result.outcomes[i]);
      incumbent.update(history);
    }
    moves += incumbent.accepted() - 1;
    most = std::max(most, incumbent.accepted() - 1);
  }
  CHECK_LE(moves, 2 * 200);
  CHECK_LE(most, 4);
}
