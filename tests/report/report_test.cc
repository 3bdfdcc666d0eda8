#include "src/report/report.h"

#include <doctest/doctest.h>

#include <sstream>
#include <vector>

#include "src/report/digest.h"
#include "src/report/sections.h"
#include "src/report/text.h"

namespace {

using base::Json;

Json header() {
  return {
      {"type", "study"},
      {"study", "demo"},
      {"axes",
       Json::array({{{"name", "cache_type_k"}, {"values", {"f16", "q8_0", "q4_0"}}, {"default", "f16"}},
                    {{"name", "n_batch"}, {"values", {512, 2048}}, {"default", 2048}}})},
      {"objective", {{"maximize", {"decode_tps"}}, {"subject_to", {"needle_recall >= 1"}}}},
      {"model", {{"path", "/m/demo.gguf"}, {"size", 5000000}, {"name", "demo"}, {"architecture", "llama"}}},
      {"binary", {{"kind", "tbq-server"}, {"path", "/bin/tbq-server"}, {"version", "0.1"}}},
      {"host",
       {{"hostname", "box"}, {"cpu_model", "CPU"}, {"logical_cpus", 8}, {"memory_bytes", 8ULL << 30}}}};
}

Json trial(int id, const char* k, int batch, double decode, bool feasible = true) {
  Json params = {{"cache_type_k", k}, {"n_batch", batch}};
  return {{"type", "trial_end"},
          {"trial_id", id},
          {"attempt", 1},
          {"phase", id == 1 ? "default" : "sweep"},
          {"params", params},
          {"params_hash", params.dump()},
          {"argv",
           {"/bin/tbq-server", "--model", "/m/my model.gguf", "--port", "40123", "--no-cache-prompt",
            "--cache-type-k", k}},
          {"env", {"A=b c"}},
          {"status", "ok"},
          {"feasible", feasible},
          {"violations", feasible ? Json::array() : Json::array({"needle_recall is 0.33, not >= 1"})},
          {"objective", {decode}},
          {"metrics",
           {{"decode_tps", decode}, {"prefill_tps", 4000.0}, {"quality", 0.975}, {"needle_recall", 1.0}}},
          {"memory", {{"rss_peak", 3ULL << 30}}},
          {"t_total_s", 10.0}};
}

Json failed(int id, const char* k, const char* status, const char* reason) {
  Json record = trial(id, k, 2048, 0);
  for (const char* key : {"metrics", "objective", "violations"}) {
    record.erase(key);
  }
  record["status"] = status;
  record["reason"] = reason;
  record["feasible"] = false;
  return record;
}

Json study_end(const char* verdict, int best) {
  return {{"type", "study_end"}, {"finished", true}, {"verdict", verdict}, {"best_trial_id", best}};
}

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

std::string render(const std::vector<Json>& records, bool colour = false) {
  report::ReportOptions options;
  options.colour = colour;
  return report::render(header(), records, options);
}

}  // namespace

TEST_CASE("a report names the winner, what each axis did and the command that serves it") {
  std::vector<Json> records = {
      trial(1, "f16", 2048, 100), trial(2, "q8_0", 2048, 120), trial(3, "f16", 512, 80),
      failed(4, "q4_0", "oom", "insufficient memory\x1b[2J"), study_end("confirmed", 2)};
  records.back()["confirmation"] = {{"pairs", 3}, {"ratio", 1.2}, {"ratio_low", 1.15}, {"ratio_high", 1.25}};
  std::string text = render(records);
  CAPTURE(text);
  CHECK(has(text, "Use cache_type_k=q8_0: confirmed better than the default."));
  CHECK(has(text, "In 3 fresh launches of each: +20.0% in decode_tps (95% interval +15.0% to +25.0%)."));
  CHECK(has(text, "    2 ★ sweep   cache_type_k=q8_0"));
  CHECK(has(text, "oom: insufficient memory"));
  CHECK(has(text, "q8_0                    120.0 tok/s   +20.0%"));
  CHECK(has(text, "512                      80.0 tok/s   -20.0%"));
  CHECK(has(text, "--port 8080"));
  CHECK_FALSE(has(text, "40123"));
  CHECK_FALSE(has(text, "--no-cache-prompt"));
  CHECK(has(text, "--model '/m/my model.gguf'"));
  CHECK(has(text, "quality                  98%  (default 98%)"));
  CHECK_FALSE(has(text, "(medians of"));
  CHECK_FALSE(has(text, "\x1b"));  // neither colours nor a log's escape sequences
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    CHECK_LE(report::display_width(line), 100);
  }
}

TEST_CASE("changes in place are counted apart from launches") {
  std::vector<Json> records = {trial(1, "f16", 2048, 100), trial(2, "q8_0", 2048, 120)};
  for (int i = 0; i < 4; ++i) {
    records.push_back(trial(2, "q8_0", 2048, 120));
    records.back()["attempt"] = i + 2;
    records.back()["phase"] = "confirm";
    records.back()["cold"] = i == 0;
  }
  records.push_back(study_end("unconfirmed", 2));
  CHECK(has(render(records), "  (medians of 2 launches and 3 changes in place)\n"));
  CHECK(has(render(records), "and 4 confirmation runs"));
  records.resize(3);
  records.push_back(study_end("unconfirmed", 2));
  CHECK(has(render(records), "  (medians of 2 launches)\n"));
}

TEST_CASE("verdicts are worded by what is known") {
  Json base = trial(1, "f16", 2048, 100), better = trial(2, "q8_0", 2048, 120);
  CHECK(has(render({base, better, study_end("unconfirmed", 2)}),
            "looks better than the default; unconfirmed."));
  std::string stands = render({base, better, study_end("default_stands", 2)});
  CHECK(has(stands, "cache_type_k=q8_0 looked better once, but not in fresh launches"));
  CHECK(has(stands, "    1 ★ default"));
  CHECK(has(stands, "--cache-type-k f16"));  // what is served is the default
  CHECK(has(render({base, study_end("default_stands", 1)}), "The default stands"));
  CHECK(has(render({base, better}), "The study has not ended"));
  CHECK(has(render({failed(1, "f16", "oom", "x"), better, study_end("unconfirmed", 2)}),
            "cache_type_k=q8_0 is the best that ran: the default fails (oom), so there is nothing to"));
  CHECK(has(render({failed(1, "f16", "oom", "x"), study_end("no_feasible", 0)}),
            "No configuration held every limit"));
  CHECK(has(render({}), "No trial has ended yet."));
}

TEST_CASE("the headline says what the confirmation says") {
  const Json base = trial(1, "f16", 2048, 100), better = trial(2, "q8_0", 2048, 120);
  auto with = [&](const char* verdict, Json confirmation, const char* reason = "20 trials were run") {
    Json end = study_end(verdict, 2);
    end["reason"] = reason;
    end["confirmation"] = std::move(confirmation);
    return render({base, better, end});
  };
  auto says = [](const std::string& text, const std::string& headline) {
    std::string flat;  // the verdict's lines, joined
    std::istringstream lines(text.substr(text.find("\nVerdict\n") + 9));
    for (std::string line; std::getline(lines, line) && !line.empty();) {
      flat += line.substr(std::min<size_t>(2, line.size())) + " ";
    }
    CAPTURE(flat);
    CHECK(has(flat, headline));
  };
  // --confirm 1: too few to decide anything, but what they show is not what the search saw.
  std::string text = with("unconfirmed", {{"pairs", 1}, {"ratio", 0.9}});
  says(text, "Unconfirmed: cache_type_k=q8_0 looked better once, but not in fresh launches, too few of them");
  says(text, "In 1 fresh launch of each: -10.0% in decode_tps (too few for an interval).");
  says(text, "It ended because 20 trials were run.");
  CHECK(has(text, "    1 ★ default"));
  CHECK(has(text, "Serve it (the default)"));
  CHECK(has(text, "  env 'A=b c' \\\n      /bin/tbq-server"));
  const Json fewer = {{"pairs", 3}, {"planned", 6}, {"ratio", 0.98}, {"ratio_low", 0.9}, {"ratio_high", 1.1}};
  says(with("unconfirmed", fewer), "too few of them to say that the default stands");
  // All that were planned, and another cause: the reason has it.
  Json all = fewer;
  all["pairs"] = 6;
  text = with("unconfirmed", all, "20 trials were run; only one running process was compared");
  says(text, "looked better once, but not in fresh launches; until more is known serve the default.");
  says(text, "only one running process was compared");
  all["missed"] = 2;
  says(with("unconfirmed", all), "not in fresh launches, and did not hold every limit in them; until");
  text = with("unconfirmed", {{"pairs", 1}, {"ratio", 1.1}});
  says(text, "cache_type_k=q8_0 looks better than the default; unconfirmed.");
  CHECK(has(text, "    2 ★ sweep"));
  // An earlier entry of the objective decides: the speed may be lower.
  text = with("unconfirmed", {{"pairs", 1}, {"ratio", 0.9}, {"decided_by", "ctx_size"}});
  says(text, "cache_type_k=q8_0 looks better than the default; unconfirmed.");
  says(text, "ctx_size decides");
  says(with("unconfirmed", {{"pairs", 3}, {"ratio", 1.05}, {"ratio_low", 0.9}, {"ratio_high", 1.2}}),
       "cache_type_k=q8_0 may be better than the default, within the noise of fresh launches");
  Json blocks = {{"pairs", 6},        {"in_place", true}, {"ratio", 1.1},      {"ratio_low", 1.05},
                 {"ratio_high", 1.2}, {"cold_pairs", 2},  {"cold_ratio", 0.98}};
  says(with("unconfirmed", blocks), "looks better than the default in place, but not launched afresh");
  text = with("unconfirmed",
              {{"pairs", 3}, {"ratio", 1.2}, {"ratio_low", 1.1}, {"ratio_high", 1.3}, {"missed", 2}},
              "20 trials were run; a limit did not hold in 2 of 3 fresh launches of the winner");
  says(text, "did not hold every limit when it was launched again; unconfirmed.");
  says(text, "a limit did not hold in 2 of 3 fresh launches");
  says(with("default_stands", {{"pairs", 6}, {"ratio", 0.99}, {"ratio_low", 0.97}, {"ratio_high", 1.01}}),
       "The default stands: cache_type_k=q8_0 looked better once, but not in fresh launches.");
  says(with("default_stands", {{"pairs", 6}, {"ratio", 1.01}, {"ratio_low", 0.99}, {"ratio_high", 1.03}}),
       "what it gains in fresh launches is within the noise.");
  says(with("default_stands", {{"pairs", 6}, {"ratio", 1.005}, {"ratio_low", 1.001}, {"ratio_high", 1.01}}),
       "is better in fresh launches, but by too little to count.");
}

TEST_CASE("the last end of the study speaks, and only while nothing came after it") {
  const Json base = trial(1, "f16", 2048, 100), better = trial(2, "q8_0", 2048, 120);
  // Who led did not hold its limits when launched again: no trial's first look is the best then.
  Json none = study_end("no_feasible", 0);
  none["best_trial_id"] = nullptr;
  CHECK(has(render({base, better, none}), "No configuration held every limit"));
  // Resumed with more trials.
  Json start = trial(3, "q4_0", 2048, 0);
  start["type"] = "trial_start";
  std::string text = render({base, better, study_end("confirmed", 2), start, trial(3, "q4_0", 2048, 150)});
  CHECK_FALSE(has(text, "confirmed better"));
  CHECK(has(text, "cache_type_k=q4_0 looks better than the default; unconfirmed."));
  CHECK(has(text, "The study has not ended"));
}

TEST_CASE("what is not feasible never wins, and says why") {
  std::string text = render({trial(1, "f16", 2048, 100), trial(2, "q4_0", 2048, 500, false)});
  CHECK(has(text, "    2 ! sweep"));
  CHECK(has(text, "needle_recall is 0.33, not >= 1"));
  CHECK(has(text, "    1 ★ default"));
}

TEST_CASE("the first entry of the objective decides before the last") {
  Json small = trial(1, "f16", 2048, 0), large = trial(2, "q8_0", 2048, 0);
  small["objective"] = {2048, 100};
  large["objective"] = {4096, 50};
  report::Digest contents = report::digest(header(), std::vector<Json>{small, large});
  REQUIRE(contents.best() != nullptr);
  CHECK_EQ(contents.best()->trial_id, 2);
}

TEST_CASE("entries of equal rank have a front") {
  Json pareto = header();
  pareto["objective"]["maximize"] = {"decode_tps", "prefill_tps"};
  std::vector<Json> records;
  const std::vector<std::vector<double>> values = {{10, 50}, {20, 40}, {15, 30}, {5, 60}, {30, 70}};
  for (int i = 0; i < 5; ++i) {
    records.push_back(
        trial(i + 1, i % 2 == 0 ? "f16" : "q8_0", 512 + i, values[static_cast<size_t>(i)][0], i < 4));
    records.back()["objective"] = values[static_cast<size_t>(i)];
  }
  auto text = [&](const Json& head) { return report::render(head, records, {}); };
  CHECK_FALSE(has(text(pareto), "Front"));
  pareto["objective"]["pareto"] = true;
  std::string report = text(pareto);
  CHECK(has(report, "the front of decode_tps and prefill_tps"));
  CHECK(has(report, "    2 decode_tps 20, prefill_tps 40: "));
  CHECK(has(report, "    4 decode_tps 5, prefill_tps 60: "));
  CHECK_FALSE(has(report, "    3 decode_tps"));  // beaten
  CHECK_FALSE(has(report, "    5 decode_tps"));  // not feasible
}

TEST_CASE("records of another make do not break the report") {
  std::vector<Json> odd = {Json::object(),
                           Json::array(),
                           {{"type", "trial_end"}},
                           {{"type", "trial_end"}, {"params", 3}},
                           {{"type", "trial_start"}, {"params_hash", 5}},
                           {{"type", "study_end"}, {"confirmation", 1}}};
  CHECK_FALSE(render(odd).empty());
  CHECK_FALSE(report::render(Json::object(), odd, {}).empty());
  CHECK_FALSE(report::render(Json(), odd, {}).empty());
}

TEST_CASE("text is measured in columns") {
  CHECK_EQ(report::display_width("★ é"), 3);
  CHECK_EQ(report::display_width("\x1b[31mred\x1b[0m"), 3);
  CHECK_EQ(report::fit("abcdef", 4), "abc…");
  CHECK_EQ(report::fit("ééééé", 3), "éé…");
  CHECK_EQ(report::fit("abc", 3), "abc");
  CHECK_EQ(report::pad_left("é", 3), "  é");
  CHECK_EQ(report::bar(0.5, 4), "██");
  CHECK_EQ(report::bar(2, 2), "██");
  CHECK_EQ(report::bar(-1, 2), "");
  CHECK_EQ(report::wrap("aa bb  cc", 5), std::vector<std::string>{"aa bb", "cc"});
  CHECK_EQ(report::shell_word("it's"), "'it'\\''s'");
  CHECK_EQ(report::shell_word("/a-b_c.gguf"), "/a-b_c.gguf");
}
