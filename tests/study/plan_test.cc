#include "src/study/plan.h"

#include <doctest/doctest.h>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "search/grid.h"
#include "src/base/units.h"
#include "src/study/clock.h"
#include "src/study/header.h"
#include "src/study/recorded_grid.h"

using study::make_plan;
using study::Plan;
using study::Study;

namespace {

bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

Study minimax() {
  auto loaded = study::load_space_file(std::string(AR_SOURCE_DIR) + "/configs/minimax.yaml");
  REQUIRE(std::holds_alternative<Study>(loaded));
  return std::get<Study>(loaded);
}

}  // namespace

TEST_CASE("minimax: the sweep fits half of the night, important axes first") {
  Study s = minimax();
  int expected = expected_trials(s);
  CHECK_GT(expected, 20);
  CHECK_LT(expected, 35);
  Plan plan = make_plan(s, {20, 300}, 8 * 3600);
  REQUIRE_EQ(plan.first.size(), 1 + expected / 2);
  CHECK_EQ(plan.first[0].phase, "default");
  CHECK_EQ(plan.first[1].change, "cache_type_k=q8_0");
  CHECK(plan.open_ended);
  CHECK_EQ(plan.load_s, 600);
  CHECK_EQ(plan.load_worst_s, 1200);
  CHECK_LE(plan.fits, expected);
  CHECK_LT(plan.fits_worst, plan.fits);
  // Time for three pairs stays.
  CHECK_EQ(plan.kept_s, 6 * plan.end.launch_s);
  CHECK_GE(plan.fits, expected - 3 - plan.kept_s / (plan.load_s + plan.first[0].measure_s) - 1);
  Plan unconfirmed = make_plan(s, {20, 300}, 8 * 3600, 100, {}, {}, 0);
  CHECK_EQ(unconfirmed.kept_s, 0);
  CHECK_GE(unconfirmed.fits, expected - 3);
  CHECK_LT(plan.fits, unconfirmed.fits);

  // An hour has room for three and no confirmation.
  plan = make_plan(s, {20, 300}, 3600, 100, {}, {}, 0);
  CHECK_EQ(plan.fits, 3);
  std::string text = to_text(s, plan);
  for (const char* part :
       {"13 axes", "2,916,000 points", "cache_type_k=q8_0", "10m00s to load (20m00s at worst)",
        "about 3 of 60 trials", "left out     the last", "and every step from the best point:"}) {
    CAPTURE(text);
    CHECK_MESSAGE(mentions(text, part), part);
  }
  for (size_t start = 0; start < text.size();) {
    size_t end = text.find('\n', start);
    CHECK_LE(end - start, 110);
    start = end + 1;
  }
}

TEST_CASE("without a limit of time everything fits") {
  Study s = minimax();
  s.search.budget_s = 0;
  CHECK_EQ(expected_trials(s), 0);
  Plan plan = make_plan(s, {}, 0);
  CHECK_EQ(plan.first.size(), 1 + 60 / 2);  // the default, 24 of the sweep, 6 pairs
  // Reading in half of 96K tokens, four times, is what takes the time.
  CHECK_EQ(plan.first[9].change, "ctx_size=98304");
  CHECK_GT(plan.first[9].measure_s, plan.first[0].measure_s + 400);
  CHECK_EQ(plan.fits, 60);
  CHECK(mentions(to_text(s, plan), "no time limit"));
  CHECK_FALSE(mentions(to_text(s, plan), "left out"));
}

TEST_CASE("the launches of finals and confirmation are told, and what they take") {
  Study s = minimax();
  auto end = [&](int confirm, const std::vector<std::string>& in_place = {}) {
    return make_plan(s, {20, 300}, 0, 100, {}, in_place, confirm).end;
  };
  study::PlannedEnd three = end(3);
  CHECK_EQ(three.finals, 11);
  CHECK_EQ(three.confirm_least, 6);
  CHECK_EQ(three.confirm_most, 24);
  CHECK_EQ(three.cold, 0);
  CHECK_GT(three.launch_s, 600);  // a load each
  CHECK_LT(three.launch_s, 600 + make_plan(s, {20, 300}, 0).measure_s);
  CHECK_EQ(three.most_s(), 24 * three.launch_s);
  CHECK_EQ(end(10).confirm_least, 20);
  CHECK_EQ(end(10).confirm_most, 24);
  CHECK_EQ(end(1).confirm_most, 2);
  CHECK_EQ(end(0).confirm_most, 0);
  CHECK_EQ(end(0).finals, 0);
  std::string text = to_text(s, make_plan(s, {20, 300}, 0));
  CAPTURE(text);
  CHECK(mentions(text, "finals: up to 11 launches, " + base::format_duration(three.finals_s())));
  CHECK(mentions(text, "confirmation: 6 to 24 launches, " + base::format_duration(three.least_s()) + " to " +
                           base::format_duration(three.most_s()) + " (as noise asks for)"));
  CHECK(mentions(to_text(s, make_plan(s, {20, 300}, 0, 100, {}, {}, 0)), "nothing will be confirmed"));

  // One server that is changed: blocks of four, and two launches of each beside them.
  std::vector<std::string> all;
  for (const search::Axis& axis : s.space.axes) {
    all.push_back(axis.name);
  }
  study::PlannedEnd in_place = end(3, all);
  CHECK(in_place.in_place);
  CHECK_EQ(in_place.confirm_least, 24);
  CHECK_EQ(in_place.confirm_most, 48);
  CHECK_EQ(in_place.cold, 4);
  CHECK_EQ(in_place.least_s(), doctest::Approx(24 * in_place.change_s + 4 * in_place.launch_s));
  CHECK_EQ(in_place.launch_s, doctest::Approx(600 + in_place.change_s));
  CHECK_EQ(end(1, all).confirm_most, 2);
  CHECK_FALSE(end(1, all).in_place);
  all.pop_back();
  CHECK_FALSE(end(3, all).in_place);

  // A winner with a longer context is decided by that: the least is all there is.
  CHECK_EQ(three.decided_by, "ctx_size");
  CHECK_EQ(three.decided_launches, 6);
  CHECK_EQ(three.decided_changes, 0);
  CHECK_EQ(end(10).decided_launches, 20);
  CHECK(mentions(text,
                 "of a winner that ctx_size decides: 6 launches, " + base::format_duration(three.least_s())));
  CHECK_EQ(make_plan(s, {20, 300}, 0, 100, {}, {"ctx_size"}).end.decided_launches, 6);

  // What no speed decides needs no finals.
  s.objective.maximize.resize(1);  // ctx_size
  CHECK_EQ(end(3).finals, 0);
  s.backend.kind = study::BackendKind::kUrl;
  CHECK_EQ(end(3).cold, 0);
  CHECK_EQ(end(3).confirm_least, 24);
  CHECK_EQ(end(3).confirm_most, 24);  // nor more launches than the least
  CHECK_EQ(end(3).launch_s, end(3).change_s);
}

TEST_CASE("a space smaller than max_trials is planned to its end") {
  Study s = minimax();
  s.space.axes.resize(1);
  s.space.constraints.clear();
  s.search.strategy = "grid";
  Plan plan = make_plan(s, {}, 3600);
  CHECK_EQ(plan.first.size(), 3);
  CHECK_EQ(plan.max_trials, 3);
  CHECK_FALSE(plan.open_ended);
  CHECK_EQ(plan.end.repeats, 0);

  // More points than are listed; each is launched thrice.
  auto loaded = study::load_space_file(std::string(AR_SOURCE_DIR) + "/configs/grids/interaction.yaml");
  REQUIRE(std::holds_alternative<Study>(loaded));
  const Study grid = std::get<Study>(loaded);
  const int points = static_cast<int>(grid.space.grid_size());
  REQUIRE_GT(points, 100);
  plan = make_plan(grid, {}, 0);
  CHECK_EQ(plan.first.size(), 100);
  CHECK_EQ(plan.max_trials, points);
  CHECK_EQ(plan.end.repeats, 2 * points);
  CHECK(mentions(to_text(grid, plan),
                 fmt::format("{} launches after the search, 3 of each configuration", 2 * points)));
}

TEST_CASE("strategies are compared on a grid of the same axes, values and objective, and on no other") {
  auto loaded = study::load_space_file(std::string(AR_SOURCE_DIR) + "/configs/grids/interaction.yaml");
  REQUIRE(std::holds_alternative<Study>(loaded));
  const Study s = std::get<Study>(loaded);
  const auto directory = std::filesystem::temp_directory_path() / fmt::format("ar-plan-{}", ::getpid());
  std::filesystem::create_directory(directory);
  using Paths = std::vector<std::string>;
  CHECK(study::find_grids(s, "", directory.string())->empty());
  const std::string path = (directory / "a.jsonl").string();
  auto write = [&](const base::Json& header) { std::ofstream(path) << base::dump_line(header) << "\n"; };
  base::Json header = study::study_header(s, {}, {{"path", "m"}});
  write(header);
  CHECK(*study::find_grids(s, "", directory.string()) == Paths{path});
  CHECK(*study::find_grids(s, path, "") == Paths{path});
  CHECK_FALSE(study::find_grids(s, path + "x", "").ok());
  // A pipe that nobody writes to does not keep the plan waiting.
  REQUIRE_EQ(::mkfifo((directory / "b.jsonl").c_str(), 0600), 0);
  CHECK(*study::find_grids(s, "", directory.string()) == Paths{path});
  header["note"] = std::string(1 << 19, 'x');  // a header that is longer than most
  write(header);
  CHECK(*study::find_grids(s, "", directory.string()) == Paths{path});
  // Beside the space text nothing is protected by a hash: what a header says there is not what is replayed.
  const std::string space = header["space"];
  auto other = [&](const std::string& from, const std::string& to) {
    std::string text = space;
    REQUIRE_NE(text.find(from), std::string::npos);
    header["space"] = text.replace(text.find(from), from.size(), to);
    header["space_hash"] = study::content_hash(text);
    return study::other_search(s, header);
  };
  CHECK_EQ(other("default: 64", "default: 8"), "axes, values or defaults");
  write(header);
  CHECK(study::find_grids(s, "", directory.string())->empty());
  auto refused = study::find_grids(s, path, "");
  REQUIRE_FALSE(refused.ok());
  CHECK(mentions(refused.failure().to_string(), "with axes, values or defaults other than"));
  CHECK_EQ(other("search:", "  subject_to: [decode_tps >= 1]\n\nsearch:"), "limits (subject_to)");
  CHECK_EQ(other("objective:", "constraints: [\"n_threads < 2\"]\n\nobjective:"), "constraints");
  // A rule of taste that it breaks today, such as how long a name may be, does not hide that.
  CHECK_EQ(
      other("study: grid-interaction", "constraints: [\"n_threads < 2\"]\nstudy: " + std::string(90, 'x')),
      "constraints");
  Study tied = s;
  tied.space.constraints.push_back(*search::Expression::parse("n_threads < 2"));
  CHECK_EQ(study::other_search(tied, study::study_header(s, {}, {})), "constraints");
  header["host"]["cpu_model"] = "Z80";
  CHECK(mentions(study::recorded_elsewhere(s, header), "the processor Z80 instead of "));
  std::filesystem::remove_all(directory);

  // Threads are all that matters.
  search::RecordedGrid grid(s.space, {true});
  const size_t threads = s.space.index_of("n_threads");
  for (uint64_t i = 0; i < static_cast<uint64_t>(s.space.grid_size()); ++i) {
    const search::Config config = s.space.canonical(search::grid_point(s.space, i));
    search::Outcome outcome;
    outcome.ok = outcome.feasible = true;
    outcome.objective = {100.0 + 10 * static_cast<double>(std::get<int64_t>(config[threads]))};
    grid.add(config, outcome);
  }
  grid.finish();
  std::vector<int> progress;
  study::GridForecast forecast =
      study::forecast_strategies(grid, {}, "g.jsonl", 12, 3, [&](int done, int of) {
        CHECK_EQ(of, 12);
        progress.push_back(done);
      });
  CHECK_EQ(progress.size(), 12);
  CHECK_EQ(progress.back(), 11);
  REQUIRE_EQ(forecast.strategies.size(), 4);
  CHECK_EQ(forecast.noise, 0.05);
  CHECK_EQ(forecast.strategies[0].name, "two-phase");
  REQUIRE(forecast.strategies[0].median.has_value());
  CHECK_EQ(study::forecast_strategies(grid, {}, "g.jsonl", 5000, 1).max_trials, 60);
  forecast.elsewhere = "another model";
  const std::string text = to_text(s, forecast);
  CAPTURE(text);
  CHECK(mentions(text, "replayed on g.jsonl ("));
  CHECK(mentions(text, "to within 2% of the best"));
  CHECK(mentions(text, "recorded with another model: "));
  CHECK_EQ(forecast.missing, 0);
  CHECK_FALSE(mentions(text, "not recorded"));
  forecast.missing = 7;
  forecast.strategies[0].unknown = 2.5;
  CHECK(mentions(to_text(s, forecast), "  7 more points were not recorded"));
  CHECK(mentions(to_text(s, forecast), "record the space anew"));
  CHECK(mentions(to_text(s, forecast), ", 2.5 points a run not recorded"));
  CHECK_FALSE(mentions(to_text(s, forecast), "BELIEVE THIS"));
  forecast.unfinished = true;
  CHECK(mentions(to_text(s, forecast), "(autoresearch resume g.jsonl)"));
  forecast.missing = 1e7;
  forecast.counted = false;
  CHECK(mentions(to_text(s, forecast), "DO NOT BELIEVE THIS: perhaps only 0.0019% of the space"));
  CHECK(mentions(to_text(s, forecast), "up to 10,000,000 more points"));
  forecast.pareto = true;
  CHECK(mentions(to_text(s, forecast), "to 98% of the volume of the true front"));
  CHECK(mentions(text, "model-based"));
}

TEST_CASE("time of day and digits") {
  const char* before = std::getenv("TZ");
  std::string zone = before != nullptr ? before : "";
  ::setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
  ::tzset();
  constexpr std::time_t kNoon = 1768474800;  // 2026-01-15 12:00 in that zone
  CHECK_EQ(study::seconds_until("07:00", kNoon), 19 * 3600);
  CHECK_EQ(study::seconds_until("12:01", kNoon), 60);
  CHECK_EQ(study::seconds_until("12:00", kNoon), 86400);
  // The night in which the clock goes forward (2026-03-29) is an hour shorter.
  constexpr std::time_t kEleven = 1774735200;  // 2026-03-28 23:00
  CHECK_EQ(study::seconds_until("07:00", kEleven), 7 * 3600);
  for (const char* bad : {"", "7:00", "24:00", "12:60", "12-30", "-1:00", "1 :00", "07:000"}) {
    CAPTURE(bad);
    CHECK_FALSE(study::seconds_until(bad, kNoon).has_value());
  }
  before != nullptr ? ::setenv("TZ", zone.c_str(), 1) : ::unsetenv("TZ");
  ::tzset();
  CHECK_EQ(study::grouped(7), "7");
  CHECK_EQ(study::grouped(2278125), "2,278,125");
  CHECK_EQ(study::grouped(123456), "123,456");
  CHECK_EQ(study::grouped(3e20), "3e+20");
}
