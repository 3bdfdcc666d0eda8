// The pure halves of the probes, on literal samples.
#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "probes/filler.h"
#include "probes/needle.h"
#include "probes/quality.h"
#include "probes/speed.h"

using namespace probes;

namespace {

Generation answer(const std::string& content, const std::string& finish = "stop") {
  Generation generation;
  generation.content = content;
  generation.finish_reason = finish;
  return generation;
}

SpeedSample sample(double decode_tps, int n = 64, int prompt_n = 512) {
  SpeedSample s;
  s.prompt_n = prompt_n;
  s.predicted_n = n;
  s.ttft_ms = 500;
  s.total_ms = 500 + (n - 1) * 1000.0 / decode_tps;
  s.prefill_tps = prompt_n / 0.5;
  s.decode_tps = decode_tps;
  s.timings = {{"cache_n", 0},
               {"prompt_n", prompt_n},
               {"prompt_ms", 499.0},
               {"predicted_n", n},
               {"predicted_ms", (n - 1) * 1000.0 / decode_tps},
               {"predicted_per_second", decode_tps}};
  return s;
}

}  // namespace

TEST_CASE("keywords match on word starts, numbers as a whole") {
  CHECK(has_keyword("Nuclear FISSION.", "fission"));
  CHECK(has_keyword("**memoization**", "memo"));
  CHECK_FALSE(has_keyword("supercache", "cache"));
  CHECK(has_keyword("it is cached", "cache"));
  CHECK(has_keyword("The answer is 12.", "12"));
  CHECK(has_keyword("12", "12"));
  CHECK_FALSE(has_keyword("120", "12"));
  CHECK_FALSE(has_keyword("112", "12"));
  CHECK_FALSE(has_keyword("1,012 and 12.5 and 3.12", "12"));
  CHECK(has_keyword("12, 13", "12"));
  CHECK(has_keyword("112 or 12", "12"));
  CHECK(has_keyword("H2O", "h2o"));
  CHECK_FALSE(
      has_keyword("\xc3\xa9"
                  "cole",
                  "cole"));  // the e with an accent is a letter
  CHECK_FALSE(has_keyword("anything", ""));
}

TEST_CASE("quality verdicts") {
  QualityItem item{"atom", "physics", "?", {"nucleus"}, {"fission", "fusion"}, {"chemical"}, 64};
  CHECK(score_answer(item, answer("The nucleus undergoes fission.")) == Verdict::kPass);
  CHECK(score_answer(item, answer("The nucleus undergoes fission, a", "length")) == Verdict::kPass);
  CHECK(score_answer(item, answer("Fission.")) == Verdict::kMiss);
  CHECK(score_answer(item, answer("The nucleus splits.")) == Verdict::kMiss);
  CHECK(score_answer(item, answer("Nucleus fission is a chemical process")) == Verdict::kMiss);
  CHECK(score_answer(item, answer("Well, let us think about", "length")) == Verdict::kCutOff);
  CHECK(score_answer(item, answer("I'm sorry, but nucleus fission is not for me")) == Verdict::kRefused);
  CHECK(score_answer(item, answer("I\xe2\x80\x99m sorry, but no")) == Verdict::kRefused);
  CHECK(score_answer(item, answer("  \"I cannot help with that.")) == Verdict::kRefused);
  CHECK(score_answer(item, answer("fission of the nucleus; I cannot say more")) == Verdict::kPass);
  CHECK(score_answer(item, answer("nucleus fission", "error")) == Verdict::kError);
  QualityResult result =
      score_quality({item, item}, {answer("nucleus fusion"), answer(std::string(1000, 'x'))});
  CHECK(result.passed == 1);
  CHECK(result.score == 0.5);
  CHECK(result.items[1].answer.size() == 400);
  CHECK(to_json(result)["items"][0]["verdict"] == "pass");
}

TEST_CASE("a suite is checked item by item") {
  auto suite = parse_suite(R"({"name":"s","items":[{"id":"a","prompt":"p","any_of":["x"],"max_tokens":9}]})",
                           "s.json");
  REQUIRE(suite.ok());
  CHECK(suite->at(0).max_tokens == 9);
  auto fault = [](const char* items) {
    auto bad = parse_suite(std::string(R"({"items":)") + items + "}", "s.json");
    REQUIRE_FALSE(bad.ok());
    return bad.failure().to_string();
  };
  CHECK(fault(R"([{"id":"a","prompt":"p","any_of":["x"]},{"id":"a","prompt":"p","any_of":["x"]}])") ==
        "s.json: items[1]: the id \"a\" is taken; give every item its own");
  CHECK(fault("[]").find("no \"items\"") != std::string::npos);
  CHECK(fault(R"([{"prompt":"p","any_of":["x"]}])").find("no \"id\"") != std::string::npos);
  CHECK(fault(R"([{"id":"a","prompt":"p"}])").find("no keywords") != std::string::npos);
  CHECK(fault(R"([{"id":"a","prompt":"p","anyof":["x"]}])").find("unknown key \"anyof\"") !=
        std::string::npos);
  CHECK(fault(R"([{"id":"a","prompt":"p","any_of":"x"}])").find("no list") != std::string::npos);
  CHECK(fault(R"([{"id":"a","prompt":"p","any_of":["x"],"max_tokens":0}])").find("max_tokens") !=
        std::string::npos);
  CHECK_FALSE(parse_suite("[1", "s.json").ok());
}

TEST_CASE("thinking is kept apart") {
  auto split = [](std::string content) {
    std::string reasoning;
    split_thinking(content, reasoning);
    return content + "|" + reasoning;
  };
  CHECK(split("plain") == "plain|");
  CHECK(split("<think>hm</think>\n\nyes") == "yes|hm");
  CHECK(split("hm</think>yes") == "yes|hm");
  CHECK(split("<think>hm and so on") == "|hm and so on");
}

TEST_CASE("stream events") {
  Generation chat;
  CHECK(take_chat_event(R"({"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]})",
                        1, chat));
  CHECK(chat.token_ms.empty());  // a role is no token
  CHECK(take_chat_event(R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})", 5, chat));
  CHECK(take_chat_event(R"({"error":null,"choices":[{"delta":{"content":"yes"}}]})", 7, chat));
  CHECK(take_chat_event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})", 8, chat));
  CHECK(take_chat_event(
      R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2},"timings":{"cache_n":0}})", 9,
      chat));
  CHECK(chat.ttft_ms == 5);
  CHECK(chat.total_ms == 8);
  CHECK(chat.content == "yes");
  CHECK(chat.reasoning == "hm");
  CHECK(chat.finish_reason == "stop");
  CHECK(chat.prompt_tokens == 9);
  CHECK(chat.timings["cache_n"] == 0);
  CHECK_FALSE(take_chat_event("{\"choices\":[", 1, chat));
  CHECK_FALSE(take_chat_event("[]", 1, chat));
  Generation native;
  CHECK(take_completion_event(R"({"content":"a","stop":false})", 3, native));
  CHECK(take_completion_event(R"({"content":"","stop":false})", 4, native));  // held back, yet a token
  CHECK(take_completion_event(
      R"({"content":"","stop":true,"stop_type":"limit","tokens_predicted":2,"tokens_evaluated":5,"timings":{}})",
      5, native));
  CHECK(native.token_ms == std::vector<double>{3, 4});
  CHECK(native.finish_reason == "length");
  CHECK(native.completion_tokens == 2);
  Generation failed;
  CHECK(take_completion_event(R"({"error":{"code":500,"message":"Compute error."}})", 5, failed));
  CHECK(failed.finish_reason == "error: Compute error.");
}

TEST_CASE("speed: medians, spread, and what cannot be true") {
  SpeedOptions options;
  options.n_gen = 64;
  SpeedResult good = score_speed({sample(20), sample(24), sample(100)}, options);
  CHECK(good.implausible == "");
  CHECK(good.decode_tps == doctest::Approx(24));
  CHECK(good.decode_tps_mad == doctest::Approx(4 * 1.4826));
  CHECK(good.ttft_ms == 500);
  auto doubt = [&](auto change) {
    SpeedSample s = sample(24);
    change(s);
    SpeedResult result = score_speed({sample(24), s}, options);
    CHECK(to_json(result).contains("decode_tps") == result.implausible.empty());
    return result.implausible;
  };
  auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(has(doubt([](SpeedSample& s) { s.timings["predicted_per_second"] = 1e6; }), "claims 1000000 tok/s"));
  CHECK(doubt([](SpeedSample& s) { s.timings["predicted_per_second"] = 40.0; }).empty());
  CHECK(has(doubt([](SpeedSample& s) { s.timings["predicted_per_second"] = 60.0; }), "our clock allows"));
  CHECK(has(doubt([](SpeedSample& s) { s.predicted_n = 63; }), "63 tokens came where 64"));
  CHECK(doubt([](SpeedSample& s) {
          s.predicted_n = 60;
          s.end_of_text = true;
        }).empty());
  CHECK(doubt([](SpeedSample& s) { s.timings["cache_n"] = 1; }).empty());
  CHECK(has(doubt([](SpeedSample& s) { s.timings["cache_n"] = 400; }), "from a cache"));
  CHECK(has(doubt([](SpeedSample& s) { s.prefill_tps = 2; }), "ten times prefill"));
  CHECK(has(doubt([](SpeedSample& s) { s.decode_tps = INFINITY; }), "finite"));
  CHECK(has(doubt([](SpeedSample& s) { s.decode_tps = NAN; }), "finite"));
  CHECK(has(doubt([](SpeedSample& s) { s.ttft_ms = s.total_ms - 1; }), "burst"));
  CHECK(has(doubt([](SpeedSample& s) { s.timings["prompt_ms"] = 9000.0; }), "to read the prompt"));
  CHECK(doubt([](SpeedSample& s) { s.timings = nullptr; }).empty());  // no timings: our clock alone
  CHECK(score_speed({}, options).implausible == "there are no samples");
}

TEST_CASE("needle scoring grades content, not typography") {
  CHECK(score_needle("48213", answer("The secret code for the old vault is 48213.")) ==
        NeedleVerdict::kFound);
  CHECK(score_needle("48213", answer("**48,213**")) == NeedleVerdict::kFound);
  CHECK(score_needle("48213", answer("4 8 2 1 3")) == NeedleVerdict::kFound);
  CHECK(score_needle("velvet orchid", answer("It's \"Velvet-Orchid\"!")) == NeedleVerdict::kFound);
  CHECK(score_needle("48213", answer("148213")) == NeedleVerdict::kWrong);
  CHECK(score_needle("48213", answer("482134")) == NeedleVerdict::kWrong);
  CHECK(score_needle("48213", answer("I'm sorry, but I cannot share codes")) == NeedleVerdict::kRefused);
  CHECK(score_needle("48213", answer("", "length")) == NeedleVerdict::kTimedOut);
  CHECK(score_needle("48213", answer("", "stop")) == NeedleVerdict::kWrong);
}

TEST_CASE("needle prompts are repeatable and put the fact where they should") {
  NeedlePrompt prompt = make_needle_prompt(7, 2, 20, 0.5);
  CHECK(prompt.text == make_needle_prompt(7, 2, 20, 0.5).text);
  CHECK(prompt.text != make_needle_prompt(8, 2, 20, 0.5).text);
  CHECK(make_needle_prompt(7, 3, 20, 0.5).expected != prompt.expected);
  CHECK(make_needle_prompt(7, 2, 90, 0.1).expected == prompt.expected);  // whatever the length
  size_t at = prompt.text.find(prompt.expected);
  REQUIRE(at != std::string::npos);
  CHECK(at > prompt.text.size() * 4 / 10);
  CHECK(at < prompt.text.size() * 6 / 10);
  CHECK(prompt.text.back() == '?');
  CHECK(make_needle_prompt(7, 2, 20, 0).text.starts_with("The "));
  CHECK(make_needle_prompt(7, 2, 20, 1).text.find(prompt.expected) > prompt.text.size() * 8 / 10);
}

TEST_CASE("filler does not repeat for 720 sentences") {
  std::set<std::string> seen;
  for (int i = 0; i < 720; ++i) {
    seen.insert(filler_sentence(3, i));
  }
  CHECK(seen.size() == 720);
  CHECK(filler_sentence(3, 720) == filler_sentence(3, 0));
  for (const std::string& sentence : seen) {
    CHECK(sentence.back() == '.');
    CHECK(std::isupper(static_cast<unsigned char>(sentence[0])));
  }
}

TEST_CASE("speed: clocks that go backwards, canned timings, tokens nobody asked for, disturbed samples") {
  SpeedOptions options;
  options.n_gen = 64;
  auto has = [](const SpeedResult& result, const char* part) {
    CAPTURE(result.implausible);
    return result.implausible.find(part) != std::string::npos;
  };
  SpeedSample back = sample(24);
  back.backwards = true;
  CHECK(has(score_speed({sample(24), back}, options), "clock went backwards"));
  SpeedSample negative = sample(24);
  negative.timings["predicted_ms"] = -3.0;
  CHECK(has(score_speed({negative}, options), "clock went backwards"));
  CHECK(has(score_speed({sample(24, 66)}, options), "66 tokens came where 64 were asked for"));
  SpeedSample chatty = sample(24);
  chatty.events = 80;
  CHECK(has(score_speed({chatty}, options), "80 tokens came"));

  // Timings that are the same each time, over three samples whose tokens took 2.6, 2.6 and 3.9 s.
  std::vector<SpeedSample> canned = {sample(24), sample(24), sample(24)};
  CHECK(score_speed(canned, options).implausible == "");  // the clock agrees: a very even server
  canned[2].total_ms += 1300;
  canned[2].decode_tps = 16;
  CHECK(has(score_speed(canned, options), "same to the last digit"));
  canned[2].timings["predicted_ms"] = 3925.001;
  CHECK(score_speed(canned, options).implausible == "");

  SpeedSample disturbed = sample(10);
  disturbed.faults = 7;
  SpeedResult mixed = score_speed({sample(24), disturbed, sample(26)}, options);
  CHECK(mixed.decode_tps == doctest::Approx(25));
  CHECK(mixed.disturbed == 1);
  SpeedResult all = score_speed({disturbed, disturbed}, options);
  CHECK(all.decode_tps == doctest::Approx(10));
  CHECK(all.disturbed == 2);

  SpeedSample kept = sample(24);
  kept.kept_prompt = true;
  kept.timings["cache_n"] = 500;
  SpeedResult depth = score_speed({kept, kept}, options);
  CHECK(depth.implausible == "");
  CHECK(depth.decode_tps == doctest::Approx(24));
  CHECK(depth.prefill_tps == 0);
}

TEST_CASE("verdicts on answers that were ended by us") {
  QualityItem item{"a", "", "?", {}, {"yes"}, {}, 64};
  CHECK(score_answer(item, answer("", "thinking_limit")) == Verdict::kCutOff);
  CHECK(score_answer(item, answer("well", "time_limit")) == Verdict::kTimedOut);
  CHECK(score_answer(item, answer("yes, and", "time_limit")) == Verdict::kPass);
  CHECK(score_needle("48213", answer("It", "time_limit")) == NeedleVerdict::kTimedOut);
  CHECK(score_needle("48213", answer("It is 48213, and", "time_limit")) == NeedleVerdict::kFound);
  CHECK_FALSE(ran_away(answer("a long answer", "length")));
  CHECK(ran_away(answer("well", "time_limit")));
  Generation thinking = answer("", "length");
  CHECK_FALSE(ran_away(thinking));
  thinking.reasoning = "hm";
  CHECK(ran_away(thinking));
  CHECK(to_string(Verdict::kTimedOut) == "timed_out");
}
