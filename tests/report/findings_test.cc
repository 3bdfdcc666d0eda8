// Findings of a report, out of literal journal records.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <sstream>

#include "src/report/digest.h"
#include "src/report/findings.h"
#include "src/report/report.h"
#include "src/report/text.h"

using base::Json;

namespace {

Json header() {
  return {{"type", "study"},
          {"study", "box"},
          {"axes",
           Json::array({{{"name", "cache_type_k"},
                         {"values", {"f16", "q8_0", "q4_0", "tbq4_0", "tbq3_0"}},
                         {"default", "f16"}},
                        {{"name", "cache_type_v"},
                         {"values", {"f16", "q8_0", "q4_0", "tbq4_0", "tbq3_0"}},
                         {"default", "f16"}},
                        {{"name", "ctx_size"}, {"values", {16384, 32768, 65536, 98304}}, {"default", 16384}},
                        {{"name", "numa"}, {"values", {"disabled", "isolate"}}, {"default", "disabled"}},
                        {{"name", "n_threads"}, {"values", {5, 10}}, {"default", 10}}})}};
}

struct Point {
  const char *k = "f16", *v = "f16";
  int ctx = 16384;
  double decode = 24;
  int wrong = 0;  // of 45 items
  const char* numa = "disabled";
  int threads = 10;
};

Json trial(int id, const Point& point) {
  Json items = Json::object();
  for (int i = 0; i < 45; ++i) {
    items[fmt::format("i{}", i)] = i >= point.wrong;
  }
  Json params = {{"cache_type_k", point.k},
                 {"cache_type_v", point.v},
                 {"ctx_size", point.ctx},
                 {"numa", point.numa},
                 {"n_threads", point.threads}};
  return {{"type", "trial_end"},
          {"trial_id", id},
          {"phase", id == 1 ? "default" : "sweep"},
          {"rationale", "a point of the sweep"},
          {"params", params},
          {"params_hash", params.dump()},
          {"status", "ok"},
          {"feasible", true},
          {"objective", {point.ctx, point.decode}},
          {"metrics",
           {{"decode_tps", point.decode}, {"prefill_tps", 400.0}, {"quality", 1.0}, {"needle_recall", 1.0}}},
          {"quality_items", items},
          {"noise", 0.004},
          {"drift", 1.0},
          {"t_total_s", 10.0}};
}

Json failed(int id, const Point& point, const char* status) {
  Json record = trial(id, point);
  for (const char* key : {"metrics", "quality_items", "objective"}) {
    record.erase(key);
  }
  record["status"] = status;
  record["reason"] = "because";
  record["feasible"] = false;
  return record;
}

std::vector<std::string> texts(const std::vector<Json>& records, report::Finding::Kind kind) {
  std::vector<std::string> out;
  report::Digest contents = report::digest(header(), records);
  for (const report::Finding& finding : report::findings(contents)) {
    if (finding.kind == kind) {
      out.push_back(finding.text);
    }
  }
  return out;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) {
    out += line + "\n";
  }
  return out;
}

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

using Kind = report::Finding::Kind;

}  // namespace

TEST_CASE("4-bit KV that loses nothing is named as free, one that loses answers is not") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.k = "q4_0", .v = "q4_0", .decode = 23.9}),
                               trial(3, {.k = "tbq4_0", .v = "tbq3_0", .ctx = 98304, .decode = 23.5}),
                               trial(4, {.k = "tbq3_0", .decode = 24.1, .wrong = 15}),
                               trial(5, {.v = "q8_0", .decode = 20})};
  std::string free = joined(texts(records, Kind::kFree)), cost = joined(texts(records, Kind::kCost));
  CAPTURE(free);
  CAPTURE(cost);
  CHECK(has(free,
            "q4_0 keys and values are free: quality unchanged (45 of 45 items), needle recall 100%, decode "
            "-0.4% (within "
            "noise), KV memory 1/3.6"));
  CHECK(has(free, "tbq4_0 keys with tbq3_0 values are free: quality unchanged"));
  CHECK(has(free, "KV memory 1/4.4"));
  CHECK(has(cost, "tbq3_0 keys with f16 values: 15 of the 45 items f16/f16 answers are lost"));
  CHECK(has(
      cost,
      "f16 keys with q8_0 values: quality unchanged (45 of 45 items), needle recall 100%, decode -16.7%"));
  CHECK_FALSE(has(free, "tbq3_0 keys with f16"));
  // One measured KV size is worth more than the table.
  records[0]["metrics"]["kv_mib"] = 4000;
  records[1]["metrics"]["kv_mib"] = 2000;
  CHECK(has(joined(texts(records, Kind::kFree)),
            "q4_0 keys and values are free: quality unchanged (45 of 45 items), needle "
            "recall 100%, decode -0.4% (within noise), KV memory 1/2.0"));
  // Recall lost, quality not measured: neither is free.
  records[1]["metrics"]["needle_recall"] = 0.5;
  CHECK(has(joined(texts(records, Kind::kCost)),
            "q4_0 keys and values: quality unchanged (45 of 45 items), needle "
            "recall falls to 50%"));
  records[1].erase("quality_items");
  CHECK_FALSE(has(joined(texts(records, Kind::kFree)), "q4_0 keys and values"));
  CHECK_FALSE(has(joined(texts(records, Kind::kCost)), "q4_0 keys and values"));
}

TEST_CASE("what the verdict found faster is not said to cost speed, nor what noise may have made slower") {
  Json goal = header();
  goal["objective"] = {{"maximize", {"decode_tps"}}};
  const auto of_kind = [&](const std::vector<Json>& records, Kind kind) {
    std::string out;
    for (const report::Finding& finding : report::findings(report::digest(goal, records))) {
      out += finding.kind == kind ? finding.text + "\n" : "";
    }
    return out;
  };
  std::vector<Json> records = {trial(1, {}), trial(2, {.k = "q4_0", .v = "q4_0", .decode = 22})};
  CHECK(has(of_kind(records, Kind::kCost), "q4_0 keys and values: quality unchanged"));
  const Json end = {{"type", "study_end"},
                    {"finished", true},
                    {"verdict", "confirmed"},
                    {"best_trial_id", 2},
                    {"confirmation", {{"pairs", 6}, {"ratio", 1.05}, {"ratio_low", 1.02}}}};
  records.push_back(end);
  CHECK(of_kind(records, Kind::kCost).empty());
  const std::string unclear = of_kind(records, Kind::kUnclear);
  CAPTURE(unclear);
  CHECK(has(unclear, "decode -8.3% over all trials that have them, but the best configuration +5.0%"));
  // Where the verdict is on speed at depth, both hold.
  goal["objective"]["maximize"] = {"decode_tps_at_half_context"};
  CHECK(has(of_kind(records, Kind::kCost), "but decode_tps_at_half_context +5.0% in the launches of the"));
  // Lost answers cost something whatever the speed.
  goal["objective"]["maximize"] = {"decode_tps"};
  records[1] = trial(2, {.k = "q4_0", .v = "q4_0", .decode = 22, .wrong = 9});
  CHECK(has(of_kind(records, Kind::kCost), "9 of the 45 items f16/f16 answers are lost"));
  // 20% less, and as much noise.
  records = {trial(1, {}), trial(2, {.k = "q4_0", .v = "q4_0", .decode = 19})};
  records[1]["noise"] = 0.12;
  CHECK(has(of_kind(records, Kind::kUnclear), "decode -20.8% (within noise: measure again"));
  CHECK(of_kind(records, Kind::kCost).empty());
}

TEST_CASE("figures are compared with drift taken out, and a default that does not repeat is an anomaly") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.k = "q8_0", .v = "q8_0", .decode = 12})};
  records[1]["drift"] = 0.5;
  CHECK(has(joined(texts(records, Kind::kFree)), "q8_0 keys and values are free"));
  CHECK(has(joined(texts(records, Kind::kFree)), "decode +0.0%"));
  // Once in the night it was ten times slower; later all was well again, so nothing drifted.
  for (double speed : {24.5, 2.4, 23.9}) {
    records.push_back(trial(static_cast<int>(records.size()) + 1, {.decode = speed}));
    records.back()["phase"] = "anchor";
  }
  std::string text = joined(texts(records, Kind::kAnomaly));
  CAPTURE(text);
  CHECK(has(text, "the default by itself decoded at 2.4 tok/s (trial 4) and at 24.5 (trial 3)"));
  // Judged without drift, told as it was measured.
  records[3]["drift"] = 0.8;
  CHECK(has(joined(texts(records, Kind::kAnomaly)),
            "decoded at 2.4 tok/s (trial 4) and at 24.5 (trial 3), which drift does not explain"));
  records.erase(records.begin() + 3);
  CHECK_FALSE(has(joined(texts(records, Kind::kAnomaly)), "the default by itself"));
}

TEST_CASE("a mixed pair that is far slower than the others is an anomaly, a slow axis value is not") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.k = "q8_0", .decode = 23.8}),
                               trial(3, {.k = "q8_0", .v = "q4_0", .decode = 9}),
                               trial(4, {.decode = 11, .threads = 5})};
  std::string text = joined(texts(records, Kind::kAnomaly));
  CAPTURE(text);
  CHECK(has(text,
            "mixed pair: q8_0 keys with q4_0 values decode at 0.38 of what other pairs do (9.0 against 23.9 "
            "tok/s, trial 3): a pair off the fast path?"));
  CHECK(texts(records, Kind::kAnomaly).size() == 1);
  // The same pair with other axes changed, whose effect is known: 9 of an expected 11 is no anomaly of the pair.
  records[2] = trial(3, {.k = "q8_0", .v = "q4_0", .decode = 9, .threads = 5});
  CHECK(texts(records, Kind::kAnomaly).empty());
  // At another context size: found all the same.
  records[2] = trial(3, {.k = "q8_0", .v = "q4_0", .ctx = 65536, .decode = 9});
  CHECK(texts(records, Kind::kAnomaly).size() == 1);
  // Nothing to compare with: nothing is said.
  CHECK(texts({failed(1, {}, "oom"), records[2]}, Kind::kAnomaly).empty());
}

TEST_CASE("axes without effect are named together") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.decode = 24.2, .numa = "isolate"}),
                               trial(3, {.decode = 18, .threads = 5})};
  std::string text = joined(texts(records, Kind::kFree));
  CHECK(has(text, "no effect on decode or prefill by itself (decode within 0.8%): numa\n"));
  records[1]["metrics"]["prefill_tps"] = 300.0;
  CHECK(texts(records, Kind::kFree).empty());
}

TEST_CASE("findings and the table of axes pool every launch of a configuration, and agree") {
  std::vector<Json> records = {trial(1, {.decode = 20}), trial(2, {.k = "q8_0", .decode = 19.9}),
                               trial(3, {.decode = 19.6, .threads = 5})};
  // Launched again the default and q8_0 keys are both faster, by different amounts.
  for (double speed : {25.0, 26.0}) {
    records.push_back(trial(1, {.decode = speed}));
    records.back()["phase"] = "anchor";
    records.push_back(trial(2, {.k = "q8_0", .decode = speed * 0.8}));
    records.back()["phase"] = "final";
  }
  std::string text = report::render(header(), records, {});
  CAPTURE(text);
  CHECK(has(text, "    f16 (default)            25.0 tok/s"));
  CHECK(
      has(text, "    q8_0                     20.0 tok/s   -20.0%"));  // of 19.9, 20, 20.8 against 20, 25, 26
  CHECK(has(text, "q8_0 keys with f16 values: quality unchanged (45 of 45 items), needle recall 100%,"));
  CHECK(has(text, "-20.0%, KV memory 1/1.3"));
  CHECK(has(text, "    5                        19.6 tok/s   -21.6%"));
  CHECK_FALSE(has(text, "no effect on decode"));
}

TEST_CASE("drift, heat, throttling, faults, swap, curves and lies are anomalies") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.numa = "isolate"}), trial(3, {.threads = 5}),
                               failed(4, {.k = "q8_0"}, "implausible")};
  CHECK(texts({records[0], records[1]}, Kind::kAnomaly).empty());
  records[1]["drift"] = 0.92;
  records[1]["hw"] = {{"throttled", true},
                      {"throttling", {"the CPU was held back 12 times"}},
                      {"after", {{"temperature_c", 97.0}}}};
  records[2]["speed"] = {{"disturbed", 2}};
  records[2]["memory"] = {{"swap_used_before", 0}, {"swap_used_max", 1ULL << 30}};
  records[2]["curve"] = {{"anomaly", "attention not memory-bound: each 1,000 tokens add 6.2 ms"}};
  std::string text = joined(texts(records, Kind::kAnomaly));
  CAPTURE(text);
  CHECK(has(text, "the machine drifted: at trial 2 its speeds were -8.0% of those at the start"));
  CHECK(has(text, "the hardware was throttled during trial 2: the CPU was held back 12 times"));
  CHECK(has(text, "97 degrees Celsius at trial 2"));
  CHECK(has(text, "pages had to be read back while trial 3 was timed"));
  CHECK(has(text, "trial 3 made the host swap"));
  CHECK(has(text, "trial 3 (n_threads=5): attention not memory-bound"));
  CHECK(has(text, "trial 4 (cache_type_k=q8_0) gave numbers that cannot be true: because"));
}

TEST_CASE("where memory ends is said for each pair, predictions and audits apart") {
  Json skipped = failed(5, {.ctx = 98304}, "skipped_predicted");
  Json audit = failed(6, {.k = "q8_0", .v = "q8_0", .ctx = 65536}, "oom");
  audit["rationale"] = "audit: predicted to fail";
  std::vector<Json> records = {trial(1, {}),
                               failed(2, {.ctx = 32768}, "oom"),
                               trial(3, {.k = "q8_0", .v = "q8_0", .ctx = 32768}),
                               trial(4, {.k = "tbq4_0", .v = "tbq3_0", .ctx = 98304}),
                               skipped,
                               audit};
  std::string text = joined(texts(records, Kind::kMemory));
  CAPTURE(text);
  CHECK(has(text, "KV tbq4_0/tbq3_0: 98304 tokens of context fit\n"));
  CHECK(has(text, "KV q8_0/q8_0: 32768 tokens of context fit, 65536 ran out of memory\n"));
  CHECK(has(text, "KV f16/f16: 16384 tokens of context fit, 32768 ran out of memory\n"));
  CHECK(has(text,
            "1 configuration was not launched: predicted to run out of memory (ctx_size=98304: because)"));
  CHECK(has(text, "a prediction was audited: trial 6"));
  records[5] = trial(6, {.k = "q8_0", .v = "q8_0", .ctx = 65536});
  records[5]["rationale"] = "audit";
  CHECK(has(joined(texts(records, Kind::kAnomaly)), "a prediction was wrong: trial 6"));
  CHECK(texts({trial(1, {})}, Kind::kMemory).empty());
}

TEST_CASE("findings and repeated launches stand in the report") {
  std::vector<Json> records = {trial(1, {}), trial(2, {.k = "q4_0", .v = "q4_0", .decode = 23.9}),
                               trial(3, {.k = "q8_0", .v = "q4_0", .decode = 9}),
                               failed(4, {.ctx = 98304}, "skipped_predicted")};
  for (int i = 0; i < 3; ++i) {
    Json anchor = trial(10 + i, {.decode = 24.0 + i});
    anchor["phase"] = "anchor";
    records.push_back(anchor);
  }
  Json final_launch = trial(2, {.k = "q4_0", .v = "q4_0", .decode = 25.5});
  final_launch["phase"] = "final";
  records.push_back(final_launch);
  std::string text = report::render(header(), records, {});
  CAPTURE(text);
  CHECK(has(text, "3 trials, 4 repeated"));
  CHECK(has(text, "\nCosts nothing\n  - q4_0 keys and values are free: quality unchanged"));
  CHECK(has(text, "\nAnomalies\n  - mixed pair: q8_0 keys with q4_0 values"));
  CHECK(has(text, "  anchor  default: 24.0 25.0 26.0\n"));
  CHECK(has(text, "  final   cache_type_k=q4_0 cache_type_v=q4_0: 25.5\n"));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    CHECK(report::display_width(line) <= 100);
  }
}

TEST_CASE("perplexities are listed once each, with their interval and verdict") {
  auto with = [](Json record, Json perplexity) {
    record["perplexity"] = std::move(perplexity);
    return record;
  };
  auto compared = [](double ratio, const char* verdict) {
    return Json{{"ppl", 8 * ratio},
                {"compared",
                 {{"ratio", ratio},
                  {"low", ratio - 0.01},
                  {"high", ratio + 0.01},
                  {"margin", 0.02},
                  {"same_top", 0.985},
                  {"tokens_needed", 60000},
                  {"verdict", verdict}}}};
  };
  Json cited = with(trial(4, {.k = "q8_0", .threads = 5}), compared(1.1, "fail"));
  cited["cited_trial_id"] = 2;
  std::vector<Json> records = {
      with(trial(1, {}), {{"ppl", 8.0}, {"compared", nullptr}, {"not_compared", nullptr}}),
      with(trial(2, {.k = "q8_0"}), compared(1.002, "pass")),
      with(trial(3, {.k = "q4_0"}), compared(1.015, "undecided")), cited};
  std::string text = report::render(header(), records, {});
  CAPTURE(text);
  CHECK(has(text, "\nPerplexity\n"));
  CHECK(has(text, "what the others are compared with"));
  CHECK(has(text, "+0.2% (-0.8% to +1.2%): pass at +2.0%; same first choice"));
  CHECK(has(text, "+1.5% (+0.5% to +2.5%): undecided at +2.0%, about 60000"));
  CHECK_FALSE(has(text, "+10.0%"));
  CHECK(
      has(report::render(header(), std::vector<Json>{with(trial(1, {}), {{"unsupported", "HTTP 404"}})}, {}),
          "Not measured: HTTP 404."));
  CHECK_FALSE(has(report::render(header(), std::vector<Json>{trial(1, {})}, {}), "Perplexity"));
}

TEST_CASE("the losses of a trial's tokens are not kept for a report") {
  Json record = trial(1, Point{});
  record["perplexity"] = {{"ppl", 8.5}, {"nll", Json::array({1.0, 2.0})}, {"top", Json::array({1, 2})}};
  const std::vector<Json> records = {record};
  const report::Digest digest = report::digest(header(), records);
  REQUIRE_EQ(digest.trials.size(), 1);
  CHECK_EQ(digest.trials[0].perplexity, Json({{"ppl", 8.5}}));
}
