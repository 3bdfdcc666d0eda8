// What is particular to two-phase: its plan, its order, its steps.

#include "search/two_phase.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "search/axis_facts.h"
#include "search/sweep.h"
#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;
using search::Value;

TEST_CASE("the sweep spreads its values and fits its half of the budget") {
  Space space = spaces::mission();
  search::Singles singles(space);
  auto points = search::plan_sweep(space, singles, 100);
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
  points = search::plan_sweep(space, singles, 5);
  REQUIRE_EQ(points.size(), 5);
  CHECK_EQ(name(0), "cache_type_k=q8_0");
  CHECK_EQ(name(1), "cache_type_k=tbq3_0");
  CHECK_EQ(name(2), "cache_type_v=tbq3_0");
  CHECK_EQ(name(3), "ctx_size=98304");
  points = search::plan_sweep(space, singles, 2);
  REQUIRE_EQ(points.size(), 2);
  CHECK_EQ(name(1), "cache_type_v=tbq3_0");
  CHECK(search::plan_sweep(space, singles, 0).empty());

  // An inactive axis has nothing to sweep.
  CHECK_EQ(search::plan_sweep(spaces::conditional(), search::Singles(spaces::conditional()), 100).size(), 1);

  space = spaces::mission();
  space.axes[0].sweep_values = 1;
  CHECK_EQ(search::plan_sweep(space, singles, 100).size(), 10);
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
  CHECK_EQ(std::count_if(result.proposals.begin(), result.proposals.end(),
                         [](const Proposal& p) { return p.rationale.starts_with("pair check"); }),
           2);
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

TEST_CASE("a study that ended by patience leaves the next one all of its own") {
  Space space = spaces::mission();
  auto flat = [](const Space&, const Config&) { return measured({5}); };
  auto make = [&](uint64_t seed) { return search::find_strategy("two-phase")->make(space, seed, {1000}); };
  auto first = make(3);
  Run old = run(*first, space, flat);
  REQUIRE_LT(old.launches, 60);  // by patience: the space has 750 points
  auto next = make(4);
  next->tell(old.proposals[0].config, old.outcomes[0]);
  for (size_t i = 1; i < old.proposals.size(); ++i) {
    next->know(old.proposals[i].config, old.outcomes[i]);
  }
  Run result = run(*next, space, flat);
  auto count = [&](std::string_view phase) {
    return std::count_if(result.proposals.begin(), result.proposals.end(),
                         [&](const Proposal& proposal) { return proposal.phase == phase; });
  };
  CHECK_EQ(count("sweep"), 0);
  CHECK_EQ(count("perturb"), search::kPatience);
  CHECK_EQ(count("model"), search::kPatience);
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

std::string single(const Space& space, std::string_view axis, const Value& value) {
  size_t at = space.index_of(axis);
  auto config = search::Singles(space).at(at, space.axes[at].index_of(value));
  return config ? search::describe(space, *config, space.default_config()) : "none";
}

}  // namespace

TEST_CASE("an axis that a constraint ties moves along by the fewest steps") {
  Space space = spaces::constrained();
  CHECK_EQ(single(space, "n_batch", int64_t{128}), "n_batch=128 n_ubatch=64");
  CHECK_EQ(single(space, "n_ubatch", int64_t{1024}), "n_ubatch=1024");
  space.axes[0].default_index = 1;  // n_batch 512
  CHECK_EQ(single(space, "n_ubatch", int64_t{1024}), "n_batch=2048 n_ubatch=1024");
  space.axes[3].default_index = 1;  // flash_attn off
  CHECK_EQ(single(space, "cache_type_v", std::string("q8_0")), "cache_type_v=q8_0 flash_attn=on");

  space.axes = {spaces::names("cache_type_k", spaces::kTypes, 0),
                spaces::names("cache_type_v", spaces::kTypes, 0), spaces::axis("a", {1, 2, 3}, 0),
                spaces::axis("b", {1, 2, 3}, 0), spaces::axis("c", {1, 2, 3}, 0)};
  space.constraints = {*search::Expression::parse("cache_type_k == cache_type_v"),
                       *search::Expression::parse("a == b and b == c"), *search::Expression::parse("a < 3")};
  CHECK_EQ(single(space, "cache_type_k", std::string("q4_0")), "cache_type_k=q4_0 cache_type_v=q4_0");
  CHECK_EQ(single(space, "b", int64_t{2}), "a=2 b=2 c=2");  // two axes
  CHECK_EQ(single(space, "b", int64_t{3}), "none");
  // Two axes that lead to one configuration: it is swept once.
  auto points = search::plan_sweep(space, search::Singles(space), 100);
  CHECK_EQ(points.size(), 3 + 1);
}

TEST_CASE("the sweep begins with what a running server changes; then by importance again") {
  Space space = spaces::constrained();
  auto points = search::plan_sweep(space, search::Singles(space), 100, {"n_batch", "n_ubatch"});
  bool loads = false;
  int last_rank[2] = {-1, -1};
  for (const auto& point : points) {
    bool in_place =
        search::differ_in_place(space, {"n_batch", "n_ubatch"}, point.config, space.default_config());
    CHECK_FALSE((loads && in_place));
    loads |= !in_place;
    int rank = search::importance_rank(space.axes[point.axis].name);
    CHECK_GE(rank, last_rank[in_place ? 1 : 0]);
    last_rank[in_place ? 1 : 0] = rank;
  }
  CHECK(loads);
  CHECK_EQ(space.axes[points.front().axis].name, "n_ubatch");
}

TEST_CASE("pairs go down the staircase of the types both sides have") {
  Space space = spaces::mission();
  auto text = [&](const search::Pair& pair) {
    return search::describe(space, pair.config, space.default_config());
  };
  auto pairs = search::plan_pairs(space);
  REQUIRE_EQ(pairs.size(), 7);
  CHECK_EQ(text(pairs[0]), "cache_type_k=q8_0 cache_type_v=q4_0");
  CHECK_EQ(text(pairs[1]), "cache_type_k=q4_0 cache_type_v=q4_0");
  CHECK_EQ(text(pairs[2]), "cache_type_k=q4_0 cache_type_v=tbq4_0");
  CHECK_EQ(text(pairs[6]), "cache_type_k=q8_0 cache_type_v=q8_0");
  CHECK(search::plan_pairs(spaces::constrained()).empty());
}

TEST_CASE("what is doomed is proposed once as such, and an audit that runs frees the rest") {
  // One failure at the default context was bad luck: everything larger runs.
  Space space;
  std::vector<int64_t> sizes;
  for (int64_t size = 1; size <= 20; ++size) {
    sizes.push_back(size * 1024);
  }
  space.axes = {spaces::axis("ctx_size", sizes, 0), spaces::axis("n_threads", {1, 2}, 0)};
  space.axes[0].sweep_values = 19;
  auto strategy = search::find_strategy("two-phase")->make(space, 1, {60});
  bool failed_once = false;
  int skipped = 0, audits = 0, after = 0;
  Run result = run(*strategy, space, [&](const Space& s, const Config& c) {
    if (!failed_once && number_of(s, c, "ctx_size") == 2048) {
      failed_once = true;
      return out_of_memory();
    }
    return measured({number_of(s, c, "ctx_size")});
  });
  std::set<std::string> launched;
  for (const Proposal& proposal : result.proposals) {
    if (!proposal.doomed.empty()) {
      ++skipped;
      CHECK_EQ(proposal.doomed, "ctx_size=2048 ran out of memory, and this needs at least as much");
    } else {
      CHECK(launched.insert(search::key_of(proposal.config)).second);
      bool audit = proposal.rationale.starts_with("audit");
      audits += audit ? 1 : 0;
      after += audits > 0 && !audit && number_of(space, proposal.config, "ctx_size") > 2048 ? 1 : 0;
      if (audit) {
        CHECK_EQ(number_of(space, proposal.config, "ctx_size"), 3072);  // the nearest
      }
    }
  }
  CHECK_EQ(skipped, 6);
  CHECK_EQ(audits, 1);
  CHECK_GE(after, 17);  // the six that were skipped, too
  CHECK_EQ(number_of(space, winner(result).config, "ctx_size"), 20 * 1024);
}
