// What every strategy does beside the contract (contract_test), and what "better" means.

#include "search/strategy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;
using search::Value;

TEST_CASE("small spaces are used up by random and grid") {
  for (std::string_view name : {"random", "grid"}) {
    Space space = spaces::conditional();
    auto strategy = search::find_strategy(name)->make(space, 1, {1000});
    // none; ngram with n_max 4; ngram with n_max 8 and 16, three n_min each
    CHECK_EQ(run(*strategy, space, smooth).launches, 1 + 1 + 2 * 3);
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
