// Answers that go on and on, servers of /v1 alone, and what a speed sample is made of: against a server scripted here.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "probes/curve.h"
#include "probes/needle.h"
#include "probes/quality.h"
#include "probes/speed.h"
#include "src/os/http_client.h"
#include "tests/probes/scripted_server.h"
#include "tests/reference.h"

using namespace probes;
using base::Json;
using namespace tests;

namespace {

std::vector<QualityItem> suite(int n) {
  std::vector<QualityItem> items;
  for (int i = 0; i < n; ++i) {
    QualityItem item;
    item.id = fmt::format("i{}", i);
    item.prompt = "?";
    item.any_of = {"yes"};
    item.max_tokens = 16;
    items.push_back(item);
  }
  return items;
}

Generation tokens(const char* where, int n) {
  Generation generation;
  for (int i = 0; i < n; ++i) {
    (std::string(where) == "reasoning" ? generation.reasoning : generation.content) += "x ";
    generation.token_ms.push_back(i);
  }
  return generation;
}

}  // namespace

TEST_CASE("a budget tells thinking from answering") {
  Budget budget{10, 20, 5};
  BudgetWatch fresh(budget, 100);
  CHECK(fresh.over(tokens("reasoning", 20), 100) == "");
  CHECK(fresh.over(tokens("reasoning", 21), 100) == "thinking_limit");
  CHECK(BudgetWatch(budget, 100).over(tokens("content", 10), 100) == "");
  CHECK(BudgetWatch(budget, 100).over(tokens("content", 11), 100) == "length");
  CHECK(BudgetWatch(budget, 100).over(tokens("content", 1), 5001) == "time_limit");
  budget.max_answer_s = 0;  // then nine tenths of the request's time
  CHECK(BudgetWatch(budget, 100).over(tokens("content", 1), 89000) == "");
  CHECK(BudgetWatch(budget, 100).over(tokens("content", 1), 91000) == "time_limit");
  // Thinking inside the content, its tag in pieces.
  Generation inside = tokens("content", 0);
  BudgetWatch watch(budget, 100);
  inside.content = "<thi";
  inside.token_ms = {1};
  CHECK(watch.over(inside, 2) == "");
  inside.content = "<think>so";
  inside.token_ms.assign(15, 3);
  CHECK(watch.over(inside, 4) == "");
  inside.content = "<think>so</think> yes";
  inside.token_ms.assign(16, 3);
  CHECK(watch.over(inside, 4) == "");
  inside.token_ms.assign(25, 3);
  CHECK(watch.over(inside, 4) == "");
  inside.token_ms.assign(26, 3);
  CHECK(watch.over(inside, 4) == "length");  // 15 of thinking and 11 of answer
}

TEST_CASE("endless thinking is cut by its tokens, endless talk by its time, and neither is a hang") {
  Scripted thinks(endless("reasoning_content", "hm", "hm"));
  Budget budget{16, 40, 0};
  auto cut = chat(thinks.endpoint, {{"user", "?"}}, budget);
  REQUIRE_MESSAGE(cut.ok(), cut.failure().to_string());
  CHECK(cut->finish_reason == "thinking_limit");
  CHECK(cut->content == "");
  CHECK(cut->token_ms.size() >= 41);
  CHECK(cut->token_ms.size() < 5000);
  CHECK(thinks.bodies[0]["max_tokens"] == 56);
  CHECK(thinks.bodies[0]["chat_template_kwargs"]["enable_thinking"] == true);
  CHECK(thinks.bodies[0]["reasoning_budget_tokens"] == 40);
  CHECK(thinks.bodies[0]["cache_prompt"] == false);
  QualityItem item = suite(1)[0];
  CHECK(score_answer(item, *cut) == Verdict::kCutOff);
  CHECK(score_needle("48213", *cut) == NeedleVerdict::kTimedOut);

  Budget off{16, 0, 0.2};
  auto late = chat(thinks.endpoint, {{"user", "?"}}, off);
  REQUIRE_MESSAGE(late.ok(), late.failure().to_string());
  CHECK(thinks.bodies[1]["chat_template_kwargs"]["enable_thinking"] == false);
  CHECK(late->finish_reason == "time_limit");
  CHECK(score_answer(item, *late) == Verdict::kTimedOut);
  CHECK(ran_away(*late));

  Scripted inline_thinks(endless("content", "<think>", "hm "));
  auto tagged = chat(inline_thinks.endpoint, {{"user", "?"}}, budget);
  REQUIRE(tagged.ok());
  CHECK(tagged->finish_reason == "thinking_limit");
  CHECK(tagged->content == "");
  CHECK(tagged->reasoning.starts_with("hm"));

  Scripted silent([](const Json&, int, os::HttpReply& reply) {
    reply.begin_stream("text/event-stream");
    while (!reply.client_gone() && reply.write(":\n\n")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  silent.endpoint.stall_timeout_s = 0.3;
  silent.endpoint.timeout_s = 20;
  auto nothing = chat(silent.endpoint, {{"user", "?"}}, budget);
  REQUIRE_FALSE(nothing.ok());
  CHECK(os::http_fault(nothing.failure()) == os::HttpFault::kNoData);
}

TEST_CASE("a model that runs away every time is not asked to the end") {
  Scripted thinks(endless("reasoning_content", "hm", "hm"));
  QualityOptions options;
  options.max_thinking_tokens = 20;
  auto result = run_quality(thinks.endpoint, suite(12), options);
  REQUIRE(result.ok());
  CHECK(thinks.bodies.size() == kRunawaysInARow);
  CHECK(result->runaway == 12);
  CHECK(result->passed == 0);
  CHECK(result->items[0].verdict == Verdict::kCutOff);
  CHECK(result->items[11].verdict == Verdict::kTimedOut);
  CHECK(result->items[11].answer.find("not asked") != std::string::npos);
  CHECK(to_json(*result)["runaway"] == 12);

  // One that runs away now and then is asked everything.
  auto sometimes = [](const Json& body, int request, os::HttpReply& reply) {
    if (request % 3 == 0) {
      endless("reasoning_content", "hm", "hm")(body, request, reply);
      return;
    }
    reply.begin_stream("text/event-stream");
    event(reply, delta("content", request == 1 ? "I'm sorry, but no" : "yes"));
    event(reply, finish("stop"));
    reply.end_stream();
  };
  Scripted moody(sometimes);
  result = run_quality(moody.endpoint, suite(12), options);
  REQUIRE(result.ok());
  CHECK(moody.bodies.size() == 12);
  CHECK(result->runaway == 4);
  CHECK(result->refused == 1);
  CHECK(result->passed == 7);
}

TEST_CASE("a server of /v1 alone is asked nothing else") {
  auto script = [](const Json& body, int, os::HttpReply& reply) {
    int n = body["max_tokens"].get<int>();
    reply.begin_stream("text/event-stream");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (int i = 0; i < n; ++i) {
      event(reply, delta("content", "word "));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    event(reply, finish("length"));
    event(reply, {{"choices", Json::array()}, {"usage", {{"prompt_tokens", 250}, {"completion_tokens", n}}}});
    reply.write("data: [DONE]\n\n");
    reply.end_stream();
  };
  Scripted server(script);
  server.endpoint.native = false;
  server.endpoint.model = "some/model";
  SpeedOptions options;
  options.n_prompt = 200;
  options.n_gen = 24;
  auto speed = run_speed(server.endpoint, options);
  REQUIRE_MESSAGE(speed.ok(), speed.failure().to_string());
  CHECK(speed->implausible == "");
  CHECK(speed->decode_tps > 0);
  CHECK(speed->decode_tps < 505);
  CHECK(speed->samples.size() == 3);
  CHECK(speed->samples[0].prompt_n == 250);
  CHECK(speed->samples[0].timings.is_null());
  std::set<std::string> prompts;
  for (size_t i = 0; i < server.bodies.size(); ++i) {
    const Json& body = server.bodies[i];
    CHECK(server.paths[i] == "/v1/chat/completions");
    CHECK(body["model"] == "some/model");
    CHECK_FALSE(body.contains("cache_prompt"));
    CHECK_FALSE(body.contains("ignore_eos"));
    CHECK_FALSE(body.contains("reasoning_budget_tokens"));
    prompts.insert(body["messages"][0]["content"].get<std::string>());
  }
  CHECK(prompts.size() == 4);
  CHECK(*count_tokens(server.endpoint, "four times four!") == 4);

  auto answers = [](const Json&, int, os::HttpReply& reply) {
    reply.begin_stream("text/event-stream");
    for (int i = 0; i < 3; ++i) {
      event(reply, delta("content", "no "));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    event(reply, finish("stop"));
    reply.end_stream();
  };
  Scripted curt(answers);
  curt.endpoint.native = false;
  speed = run_speed(curt.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible == "");  // it says so itself: no lie, only too little
  CHECK(speed->too_short == "the answers end by themselves after 3 of 24 tokens");
  CHECK(speed->decode_tps == 0);
  CHECK_FALSE(to_json(*speed).contains("decode_tps"));
  CHECK(curt.bodies.size() == 4);  // nothing is gained by asking again
}

TEST_CASE("each speed sample has a prompt of its own, after warm-ups, and nothing from a cache") {
  Scripted server(Native{});
  SpeedOptions options;
  options.n_prompt = 100;
  options.n_gen = 8;
  options.warmups = 2;
  auto speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  std::set<std::string> first_words;
  int generations = 0;
  for (const Json& body : server.bodies) {
    if (body.contains("prompt")) {
      ++generations;
      CHECK(body["cache_prompt"] == false);
      CHECK(body["ignore_eos"] == true);
      CHECK(body["temperature"] == 0);
      first_words.insert(body["prompt"].get<std::string>().substr(0, 14));
    }
  }
  CHECK(generations == 5 + speed->retaken);
  CHECK(first_words.size() == static_cast<size_t>(generations));
  CHECK(speed->samples.size() == 3);
  CHECK(speed->samples[0].timings["prompt_ms"].is_number());
}

TEST_CASE("decode at depth keeps one prompt on purpose, and takes prefill from the one that read it") {
  Scripted server(Native{.cache_n = 90, .change_timings = nullptr});
  SpeedOptions options;
  options.depth = 100;
  options.n_gen = 8;
  options.keep_prompt = true;
  auto speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible == "");
  std::set<std::string> prompts;
  for (const Json& body : server.bodies) {
    if (body.contains("prompt")) {
      CHECK(body["cache_prompt"] == true);
      prompts.insert(body["prompt"].get<std::string>());
    }
  }
  CHECK(prompts.size() == 1);
  CHECK(speed->prefill_tps > 0);
  CHECK(to_json(*speed)["samples"][0]["kept_prompt"] == true);
  options.keep_prompt = false;
  speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible.find("from a cache") != std::string::npos);
}

TEST_CASE("a host that delays us most of the time spoils samples, not the server's name") {
  // Claimed times far beyond ours: the tokens waited for us and came together.
  std::atomic<int> asked{0};
  std::atomic<bool> always{false};
  Scripted server(Native{.cache_n = 0, .change_timings = [&](Json& timings) {
                           int n = asked++;
                           if (always || n % 4 != 3) {
                             timings["predicted_ms"] = 5000.0;
                             timings["predicted_per_second"] = 1.4;
                           }
                         }});
  SpeedOptions options;
  options.n_prompt = 50;
  options.n_gen = 8;
  options.warmups = 0;
  auto speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible == "");
  CHECK(speed->samples.size() == 3);
  CHECK(speed->retaken >= 9);
  always = true;
  speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible.find("in a burst") != std::string::npos);
  CHECK(speed->retaken == 8);
}

TEST_CASE("samples during which pages had to be read are measured again") {
  Scripted server(Native{});
  SpeedOptions options;
  options.n_prompt = 50;
  options.n_gen = 8;
  options.warmups = 0;
  std::atomic<int> asked{0};
  options.faults = [&] { return static_cast<uint64_t>(++asked == 2 ? 1 : asked > 2 ? 1 : 0); };
  auto speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->retaken >= 1);
  CHECK(speed->disturbed == 0);
  CHECK(speed->samples.size() == 3);
  options.faults = [&] { return static_cast<uint64_t>(++asked); };
  speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->retaken == 3);
  CHECK(speed->disturbed == 3);
  CHECK(speed->decode_tps > 0);  // it is what it is, and the record says so
  CHECK(to_json(*speed)["disturbed"] == 3);
}

TEST_CASE("bursts use up nothing of what faults may be measured again, and time ends both") {
  std::atomic<int> asked{0};
  Scripted server(Native{.cache_n = 0, .change_timings = [&](Json& timings) {
                           if (++asked <= 6) {  // more bursts than there are repeats
                             timings["predicted_ms"] = 5000.0;
                             timings["predicted_per_second"] = 1.4;
                           }
                         }});
  SpeedOptions options;
  options.n_prompt = 50;
  options.n_gen = 8;
  options.warmups = 0;
  std::atomic<int> looks{0};
  std::atomic<uint64_t> faults{0};
  // Before and after each sample: during the first two good ones pages are read.
  options.faults = [&] {
    return (++looks % 2 == 0 && (asked == 7 || asked == 8)) ? ++faults : faults.load();
  };
  auto speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->implausible == "");
  CHECK(speed->disturbed == 0);
  CHECK(speed->retaken >= 8);
  CHECK(speed->samples.size() == 3);

  asked = 0;
  options.retake_s = 0.001;  // one sample takes longer
  speed = run_speed(server.endpoint, options);
  REQUIRE(speed.ok());
  CHECK(speed->retaken == 1);
  CHECK(speed->implausible.find("in a burst") != std::string::npos);
}

TEST_CASE("a curve has a point per depth that fits the context") {
  Scripted server(Native{});
  CurveOptions options;
  options.depths = {64, 128, 256, 4096};
  options.speed.n_gen = 8;
  options.speed.repeats = 1;
  auto curve = run_curve(server.endpoint, options, {}, 1024);
  REQUIRE(curve.ok());
  CHECK(curve->implausible == "");
  REQUIRE(curve->points.size() == 3);
  CHECK(curve->points[0].n > 40);
  CHECK(curve->points[2].n > curve->points[1].n);
  CHECK(curve->fit.problem == "");
  auto lie = [](Json& timings) { timings["predicted_per_second"] = 1e6; };
  Scripted liar(Native{.cache_n = 0, .change_timings = lie});
  curve = run_curve(liar.endpoint, options, {}, 1024);
  REQUIRE(curve.ok());
  CHECK(curve->implausible.starts_with("at 64 tokens: the server claims"));
}

TEST_CASE("streams of a real llama-server are read as they stand") {
  auto path = tests::reference("http/llama-server-b10515.txt");
  if (!path) {
    return;
  }
  std::ifstream file(*path);
  std::map<std::string, std::vector<std::string>> streams;  // heading -> data of its events
  std::string heading;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("### ")) {
      heading = line.substr(4, line.find(':') - 4);
    } else if (line.starts_with("data: ")) {
      streams[heading].push_back(line.substr(6));
    }
  }
  REQUIRE(streams["stream"].size() == 5);
  Generation native;
  double ms = 0;
  for (const std::string& data : streams["stream"]) {
    CHECK(take_completion_event(data, ++ms, native));
  }
  CHECK(native.token_ms == std::vector<double>{3, 4});  // the first two tell progress
  CHECK(native.ttft_ms == 3);
  CHECK(native.content == "└лон");
  CHECK(native.finish_reason == "length");
  CHECK(native.prompt_tokens == 3);
  CHECK(native.completion_tokens == 2);
  CHECK(native.timings["predicted_per_second"].get<double>() == doctest::Approx(944.287));

  REQUIRE(streams["chat stream"].size() == 7);
  Generation chat;
  ms = 0;
  for (const std::string& data : streams["chat stream"]) {
    if (data != "[DONE]" && base::parse_json(data, "").ok()) {
      CHECK(take_chat_event(data, ++ms, chat));
    }
  }
  CHECK(chat.content == "GRxiv sense");
  CHECK(chat.token_ms == std::vector<double>{2, 3, 4});
  CHECK(chat.finish_reason == "length");
  CHECK(chat.completion_tokens == 3);
}
