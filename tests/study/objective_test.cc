#include "src/study/objective.h"

#include <doctest/doctest.h>

#include <cmath>

#include "src/study/record.h"

using search::Value;
using study::Judgement;
using study::Study;
using study::TrialMetrics;

namespace {

bool mentions(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

Study make_study(const std::vector<std::string>& maximize, const std::vector<std::string>& limits,
                 bool quality) {
  Study s;
  for (const char* name : {"cache_type_k", "cache_type_v"}) {
    search::Axis axis;
    axis.name = name;
    axis.values = {std::string("f16"), std::string("q4_0")};
    axis.ordered = false;
    s.space.axes.push_back(axis);
  }
  search::Axis ctx;
  ctx.name = "ctx_size";
  ctx.values = {int64_t{2048}, int64_t{4096}};
  s.space.axes.push_back(ctx);
  for (const auto& text : maximize) {
    s.objective.maximize.push_back(*search::Expression::parse(text));
  }
  for (const auto& text : limits) {
    s.objective.subject_to.push_back(*search::Expression::parse(text));
  }
  if (quality) {
    s.objective.quality_not_worse_than = {"f16"};
  }
  return s;
}

search::Config config(const char* k, const char* v, int64_t ctx) {
  return {Value(std::string(k)), Value(std::string(v)), Value(ctx)};
}

TrialMetrics trial(search::Config at, double tps, int items, int failed) {
  TrialMetrics made;
  made.config = std::move(at);
  made.values = {{"decode_tps", tps}};
  for (int i = 0; i < items; ++i) {
    made.quality_items["item" + std::to_string(i)] = i >= failed;
  }
  return made;
}

}  // namespace

TEST_CASE("lexicographic objective: axes and metrics in the file's order") {
  Study s = make_study({"ctx_size", "decode_tps * 2"}, {"decode_tps >= 0.9 * default.decode_tps"}, false);
  TrialMetrics usual = trial(config("f16", "f16", 2048), 20, 0, 0);
  Judgement j = judge(s, trial(config("f16", "f16", 4096), 19, 0, 0), &usual, {});
  CHECK(j.feasible);
  CHECK_EQ(j.objective, std::vector<double>{4096, 38});
  j = judge(s, trial(config("f16", "f16", 4096), 17, 0, 0), &usual, {});
  CHECK_FALSE(j.feasible);
  REQUIRE_EQ(j.violations.size(), 1);
  CHECK_EQ(j.violations[0],
           "decode_tps >= 0.9 * default.decode_tps does not hold (decode_tps 17, default.decode_tps 20)");
  CHECK_EQ(j.objective, std::vector<double>{4096, 34});  // what it would have been worth
}

TEST_CASE("the default is its own default") {
  Study s = make_study({"decode_tps"}, {"decode_tps >= 0.9 * default.decode_tps"}, true);
  CHECK(judge(s, trial(config("f16", "f16", 2048), 20, 10, 1), nullptr, {}).feasible);
}

TEST_CASE("what was not measured is said once, and is never a number") {
  Study s = make_study({"decode_tps_at_half_context"},
                       {"decode_tps_at_half_context > 1", "needle_recall >= 1"}, false);
  Judgement j = judge(s, trial(config("f16", "q4_0", 2048), 20, 0, 0), nullptr, {});
  CHECK_FALSE(j.feasible);
  CHECK(j.objective.empty());
  CHECK_EQ(j.violations, std::vector<std::string>{"decode_tps_at_half_context was not measured",
                                                  "needle_recall was not measured"});
  TrialMetrics nan = trial(config("f16", "q4_0", 2048), NAN, 0, 0);
  s = make_study({"decode_tps"}, {}, false);
  CHECK_EQ(judge(s, nan, nullptr, {}).violations, std::vector<std::string>{"decode_tps was not measured"});
  // Without the default's numbers a limit relative to them is unknown.
  s = make_study({"decode_tps"}, {"decode_tps >= 0.9 * default.decode_tps"}, false);
  j = judge(s, trial(config("f16", "q4_0", 2048), 20, 0, 0), nullptr, {});
  CHECK_EQ(j.violations, std::vector<std::string>{"default.decode_tps was not measured"});
}

TEST_CASE("an objective entry that is not finite is no objective") {
  Study s = make_study({"decode_tps / (ctx_size - 4096)", "decode_tps"}, {}, false);
  Judgement j = judge(s, trial(config("f16", "q4_0", 4096), 20, 0, 0), nullptr, {});
  CHECK_FALSE(j.feasible);
  CHECK(j.objective.empty());
  REQUIRE_EQ(j.violations.size(), 1);
  // A journal that holds one all the same must not replay as a shorter vector.
  Judgement old = study::judgement_of({{"feasible", true}, {"objective", {nullptr, 20.0}}});
  CHECK_FALSE(old.feasible);
  CHECK(old.objective.empty());
}

TEST_CASE("quality is compared item by item with the same configuration in f16, else with the default") {
  Study s = make_study({"decode_tps"}, {}, true);
  s.probes.quality_margin = 0.05;
  TrialMetrics usual = trial(config("f16", "f16", 2048), 20, 40, 0);
  TrialMetrics q4 = trial(config("q4_0", "q4_0", 4096), 20, 40, 2);
  CHECK(judge(s, q4, &usual, {}).feasible);  // 2 of 40 are allowed
  q4 = trial(config("q4_0", "q4_0", 4096), 20, 40, 3);
  Judgement j = judge(s, q4, &usual, {});
  REQUIRE_FALSE(j.feasible);
  CHECK_EQ(j.violations[0],
           "quality not_worse_than f16: 3 of the 40 items the reference answered are lost, 2 allowed (item0, "
           "item1, "
           "item2; sign test p = 0.125)");

  // The f16 trial at 4096 itself misses the first ten: nothing of what it answered is lost.
  std::vector<TrialMetrics> others = {usual, trial(config("f16", "f16", 4096), 20, 40, 10)};
  CHECK(judge(s, q4, &usual, others).feasible);
  // A trial that trades one item for another has lost one.
  s.probes.quality_margin = 0;
  q4.quality_items["item0"] = true;
  q4.quality_items["item39"] = false;
  CHECK_FALSE(judge(s, q4, &usual, others).feasible);
  // Items that were not asked count as lost.
  q4 = trial(config("q4_0", "q4_0", 2048), 20, 39, 0);
  CHECK_FALSE(judge(s, q4, &usual, {}).feasible);
}

TEST_CASE("no reference, no answers: quality is unknown, not fine") {
  Study s = make_study({"decode_tps"}, {}, true);
  TrialMetrics q4 = trial(config("q4_0", "f16", 2048), 20, 40, 0);
  CHECK(mentions(judge(s, q4, nullptr, {}).violations.at(0), "no f16 reference was measured"));
  TrialMetrics usual = trial(config("f16", "f16", 2048), 20, 40, 40);
  CHECK(mentions(judge(s, q4, &usual, {}).violations.at(0), "the reference answered no item itself"));
  q4.quality_items.clear();
  CHECK_EQ(judge(s, q4, &usual, {}).violations.at(0), "quality was not measured");
}

TEST_CASE("the effective context, when it was read back, counts rather than the one asked for") {
  Study s = make_study({"ctx_size"}, {}, false);
  TrialMetrics t = trial(config("f16", "q4_0", 4096), 20, 0, 0);
  t.values["ctx_size"] = 3072;
  CHECK_EQ(judge(s, t, nullptr, {}).objective, std::vector<double>{3072});
}

TEST_CASE("outcome: what the search is told") {
  Study s = make_study({"decode_tps"}, {}, false);
  TrialMetrics t = trial(config("f16", "f16", 2048), 20, 0, 0);
  t.values["decode_tps_mad"] = 0.5;
  t.values["decode_tps_samples"] = 4;
  search::Outcome outcome = outcome_of(s, judge(s, t, nullptr, {}), t);
  CHECK(outcome.ok);
  CHECK(outcome.feasible);
  CHECK_EQ(outcome.objective, std::vector<double>{20});
  CHECK_EQ(outcome.noise,
           0);  // repeats inside one launch say nothing of the next launch: the loop's to fill in
}

TEST_CASE("a broken limit on memory alone is told to the search as lack of memory") {
  Study s = make_study({"decode_tps"}, {"kv_mib <= 8", "decode_tps >= 10"}, false);
  TrialMetrics big = trial(config("f16", "f16", 4096), 5, 0, 0);
  big.values["kv_mib"] = 10;
  Judgement judged = study::judge(s, big, nullptr, {});
  CHECK_FALSE(judged.feasible);
  CHECK(study::outcome_of(s, judged, big).out_of_memory);
  big.values["kv_mib"] = 8;  // too slow still, but not too big
  judged = study::judge(s, big, nullptr, {});
  CHECK_FALSE(judged.feasible);
  CHECK_FALSE(study::outcome_of(s, judged, big).out_of_memory);
  Study mixed = make_study({"decode_tps"}, {"decode_tps * 10 >= kv_mib"}, false);
  big.values["kv_mib"] = 1000;  // a limit on more than memory says nothing about size
  CHECK_FALSE(study::outcome_of(mixed, study::judge(mixed, big, nullptr, {}), big).out_of_memory);
}
