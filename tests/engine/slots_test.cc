// Several slots over HTTP and at the generator: answers do not depend on company, and nobody waits for ever.

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <thread>

#include "src/engine/generation.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/generator_rig.h"
#include "tests/engine/server_rig.h"
#include "tests/little_memory.h"
#include "tests/os/scratch.h"

using base::Json;
using engine::GenerationEvent;
using fixtures::await;
using fixtures::finish;
using fixtures::HttpRig;
using fixtures::slot_options;
using Rig = fixtures::GeneratorRig;

namespace {

const std::string kDemo = fixtures::demo_model();

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

constexpr int kLong = 16384;  // a context that takes seconds to fill

// The text of a streamed /completion, and its last event.
struct Streamed {
  std::string text;
  Json last;
};

Streamed stream(const HttpRig& rig, Json body) {
  body["stream"] = true;
  Streamed out;
  os::SseParser parser;
  const os::HttpResponse response = rig.post("/completion", body.dump());
  REQUIRE(response.status == 200);
  parser.feed(response.body, [&](std::string_view data) {
    Json event = Json::parse(data);
    out.text += event["content"].get<std::string>();
    out.last = std::move(event);
  });
  return out;
}

// Prompts of different lengths, the second longer than a batch; greedy, seeded, with stops and probabilities.
std::vector<Json> requests() {
  std::string story;
  for (int i = 0; i < 60; ++i) {
    story += fmt::format("Chapter {}: what the river said. ", i);
  }
  return {
      {{"prompt", "<|im_start|>user\nWhat is a mutex?<|im_end|>\n<|im_start|>assistant\n"},
       {"temperature", 0}},
      {{"prompt", story}, {"temperature", 0}, {"n_predict", 40}, {"ignore_eos", true}},
      {{"prompt", "The "}, {"temperature", 1.0}, {"seed", 5}, {"n_predict", 60}, {"ignore_eos", true}},
      {{"prompt", "one two three one two three one two three one two"},
       {"temperature", 0},
       {"n_predict", 50},
       {"ignore_eos", true}},
      {{"prompt", "a b c"}, {"temperature", 0.7}, {"seed", 9}, {"n_predict", 30}, {"stop", {"q"}}},
  };
}

HttpRig::Change with(int parallel, bool speculate = false) {
  return [=](engine::ServerOptions& o) {
    o.parallel = parallel;
    o.kv_unified = true;  // 2048 for all, so that a slot holds the story
    o.context.n_ctx = 4096;
    o.context.n_batch = 200;
    o.metrics = true;
    o.speculation = {speculate, 2, 8, 3};
  };
}

double gauge(const HttpRig& rig, const std::string& name) {
  const std::string text = rig.get("/metrics").body, row = "\nllamacpp:" + name + " ";
  const size_t at = text.find(row);
  REQUIRE(at != std::string::npos);
  return std::stod(text.substr(at + row.size()));
}

}  // namespace

TEST_CASE("concurrent streaming clients get, each, what they would get alone") {
  const std::vector<Json> bodies = requests();
  std::vector<Streamed> expected;
  {
    HttpRig one(with(1));
    for (const Json& body : bodies) {
      expected.push_back(stream(one, body));
    }
  }
  for (const bool speculate : {false, true}) {
    HttpRig rig(with(4, speculate));
    CHECK(Json::parse(rig.get("/props").body)["total_slots"] == 4);
    for (int round = 0; round < 2; ++round) {  // the second finds prompts in the cache
      std::vector<Streamed> got(bodies.size());
      std::vector<std::thread> clients;
      for (size_t i = 0; i < bodies.size(); ++i) {
        clients.emplace_back([&, i] { got[i] = stream(rig, bodies[i]); });
      }
      for (std::thread& client : clients) {
        client.join();
      }
      for (size_t i = 0; i < bodies.size(); ++i) {
        CAPTURE(i);
        CHECK(got[i].text == expected[i].text);
        for (const char* key : {"tokens_predicted", "tokens_evaluated", "stop_type", "truncated"}) {
          CHECK(got[i].last[key] == expected[i].last[key]);
        }
      }
    }
    CHECK(gauge(rig, "requests_processing") == 0);
    CHECK(gauge(rig, "requests_deferred") == 0);
    CHECK(gauge(rig, "n_busy_slots_per_decode") > 1.0);
    CHECK((gauge(rig, "spec_decode_num_draft_tokens_total") > 0) == speculate);
  }
}

TEST_CASE("twenty requests for two slots: all are answered, two at a time") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.parallel = 2;
    o.metrics = true;
  });
  CHECK(rig.props()["n_ctx"] == 512);
  CHECK(rig.props()["n_parallel"] == 2);
  std::atomic<int> n_right = 0, n_done = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back([&, i] {
      const os::HttpResponse response = rig.post(
          "/completion",
          fmt::format(R"({{"prompt":"number {}","n_predict":100,"temperature":0,"ignore_eos":true}})", i));
      n_right += response.status == 200 && Json::parse(response.body)["tokens_predicted"] == 100;
      ++n_done;
    });
  }
  double most_waiting = 0, most_running = 0;
  while (n_done < 20) {
    most_waiting = std::max(most_waiting, gauge(rig, "requests_deferred"));
    most_running = std::max(most_running, gauge(rig, "requests_processing"));
    CHECK(Json::parse(rig.get("/slots").body).size() == 2);
  }
  for (std::thread& client : clients) {
    client.join();
  }
  CHECK(n_right == 20);
  CHECK(most_waiting > 0);
  CHECK(most_running <= 2);
  CHECK(gauge(rig, "requests_deferred") == 0);
  CHECK(gauge(rig, "tokens_predicted_total") == 2000);
}

TEST_CASE("a task that is cancelled, in its prompt or later, and one that fails leave the others alone") {
  Rig rig(slot_options(4, 4 * kLong, false));
  const std::vector<int> expected = finish(*rig.submit(120)).result.tokens;
  auto bystander = rig.submit(120);
  auto in_prompt = rig.submit(-1, 2000, -1, 301), in_text = rig.submit(-1, 4, -1, 302);
  engine::GenerationParams nothing_left;
  nothing_left.sampling.temperature = 0;
  for (int token = 0; token < rig.tokenizer->n_vocab(); ++token) {
    nothing_left.sampling.logit_bias.emplace_back(token, -std::numeric_limits<float>::infinity());
  }
  auto broken = rig.generator->submit({303, 300, 300}, nothing_left);
  CHECK(await(*in_prompt, GenerationEvent::Kind::kStarted).kind == GenerationEvent::Kind::kStarted);
  in_prompt->cancel();
  CHECK(await(*in_text, GenerationEvent::Kind::kToken).kind == GenerationEvent::Kind::kToken);
  in_text->cancel();
  CHECK(finish(*in_prompt).status == 503);
  CHECK(finish(*in_text).status == 503);
  CHECK(finish(*broken).status == 500);
  CHECK(finish(*bystander).result.tokens == expected);
  CHECK(finish(*rig.submit(120)).result.tokens == expected);
}

TEST_CASE("a generating slot goes on while another's long prompt is read") {
  auto chosen = slot_options(2, 2 * kLong, false);
  chosen.n_batch = 32;
  Rig rig(chosen);
  auto talker = rig.submit(-1, 3);
  await(*talker, GenerationEvent::Kind::kToken);
  const int n_before = rig.generator->view().slots[0].n_decoded;
  CHECK(finish(*rig.submit(1, 3000, -1, 301)).result.tokens.size() == 1);
  // One token for every piece of the prompt, of 31 tokens.
  CHECK(rig.generator->view().slots[0].n_decoded - n_before >= 3000 / 31);
  talker->cancel();
  CHECK(finish(*talker).status == 503);
}

TEST_CASE("id_slot: there and nowhere else, and others overtake who waits for it") {
  Rig rig(slot_options(3, 3 * kLong, false));
  auto holder = rig.submit(-1, 3, 1);
  await(*holder, GenerationEvent::Kind::kToken);
  auto waits = rig.submit(2, 3, 4);  // 4 modulo 3
  const GenerationEvent other = finish(*rig.submit(2, 3, -1, 301));
  CHECK(other.result.id_slot != 1);
  CHECK(finish(*rig.submit(2, 3, 2)).result.id_slot == 2);
  CHECK(rig.generator->view().n_waiting == 1);
  CHECK_FALSE(waits->wait(std::chrono::milliseconds(0)).has_value());
  holder->cancel();
  CHECK(finish(*holder).status == 503);
  CHECK(finish(*waits).result.id_slot == 1);
  CHECK(rig.generator->view().n_waiting == 0);
}

TEST_CASE("a prompt finds its prefix in a slot of its own, or shares that of a busy one") {
  Rig rig(slot_options(2, 2 * kLong, false));
  const GenerationEvent first = finish(*rig.submit(5, 600));
  const GenerationEvent again = finish(*rig.submit(5, 600));
  CHECK(again.result.id_slot == first.result.id_slot);
  CHECK(again.result.timings.cache_n == 599);
  CHECK(again.result.tokens == first.result.tokens);
  auto holder = rig.submit(-1, 600);
  await(*holder, GenerationEvent::Kind::kToken);
  const GenerationEvent shared = finish(*rig.submit(5, 600));
  CHECK(shared.result.id_slot != first.result.id_slot);
  CHECK(shared.result.timings.cache_n == 599);
  CHECK(shared.result.tokens == first.result.tokens);
  holder->cancel();
  CHECK(finish(*holder).status == 503);
}

TEST_CASE(
    "one cache for all: idle slots give way; who has spoken ends with what was said, the youngest first") {
  Rig rig(slot_options(4, 512, true));
  CHECK(rig.generator->info().n_ctx == 512);
  // 300 rows each: the second needs the first one's pages.
  const std::vector<int> alone = finish(*rig.submit(5, 300)).result.tokens;
  CHECK(finish(*rig.submit(5, 300, -1, 301)).kind == GenerationEvent::Kind::kDone);
  CHECK(finish(*rig.submit(5, 300)).result.tokens == alone);
  std::vector<std::vector<int>> whole;  // what each says alone, to the context's end
  for (int i = 0; i < 4; ++i) {
    whole.push_back(finish(*rig.submit(-1, 10, -1, 301 + i)).result.tokens);
  }
  std::vector<std::shared_ptr<engine::Task>> tasks;
  for (int i = 0; i < 4; ++i) {
    tasks.push_back(rig.submit(-1, 10, -1, 301 + i));
  }
  std::vector<int> cached;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const GenerationEvent end = finish(*tasks[i]);
    REQUIRE_MESSAGE(end.kind == GenerationEvent::Kind::kDone, end.message);
    CHECK(end.result.truncated);
    CHECK(end.result.stop_type == engine::StopType::kLimit);
    const std::vector<int>& said = end.result.tokens;
    REQUIRE(said.size() <= whole[i].size());
    CHECK(std::equal(said.begin(), said.end(), whole[i].begin()));
    CHECK_FALSE(end.result.content.empty());
    cached.push_back(end.result.tokens_cached);
  }
  // Four pages: each has one when there is no fifth, and those that end leave theirs to the others.
  CHECK(cached.front() == 511);
  CHECK(cached.back() < 511);
  CHECK(std::ranges::min(cached) >= 128);
  CHECK(finish(*rig.submit(5, 300)).result.tokens == alone);
}

TEST_CASE("over HTTP, too, an answer that outgrows the cache ends by its length, whole and streamed") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.parallel = 2;
    o.kv_unified = true;
    o.context.n_ctx = 512;
  });
  const auto body = [](int i) {
    return Json{{"prompt", fmt::format("number {}", i)}, {"temperature", 0}, {"ignore_eos", true}};
  };
  Json whole, streamed;
  std::thread other([&] { whole = rig.json("/completion", body(1).dump()); });
  streamed = stream(rig, body(2)).last;
  other.join();
  for (const Json* answer : {&whole, &streamed}) {
    CHECK((*answer)["stop_type"] == "limit");
    CHECK((*answer)["truncated"] == true);
    CHECK((*answer)["tokens_predicted"].get<int>() > 100);
  }
}

TEST_CASE("bytes_per_token: requests that share their steps share what these read") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.parallel = 4;
    o.kv_unified = true;
    o.context.n_ctx = 4096;
  });
  const double whole = rig.props()["weight_bytes_per_token"];
  const auto ask = [&](int n_predict) {
    const Json body = {
        {"prompt", "a b c"}, {"temperature", 0}, {"ignore_eos", true}, {"n_predict", n_predict}};
    return rig.json("/completion", body.dump())["timings"];
  };
  CHECK(ask(50)["bytes_per_token"] == whole);
  std::vector<Json> timings(4);
  std::vector<std::thread> clients;
  for (Json& mine : timings) {
    clients.emplace_back([&] { mine = ask(800); });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  double sum = 0;
  for (const Json& mine : timings) {
    // Four share a step; one that has more of another's prompt in it is shared by more.
    CHECK(mine["bytes_per_token"].get<double>() >= whole / 4 * 0.99);
    CHECK(mine["bytes_per_token"].get<double>() <= whole);
    sum += mine["bytes_per_token"].get<double>();
  }
  CHECK(sum < whole * 3.5);  // counted whole for each it is four times as much
}

TEST_CASE("a newcomer that shares the prompt of a running request does not end it, nor itself") {
  // Two pages, both the elder's: half of the second is like the newcomer's, but a copy of it has no room.
  Rig rig(slot_options(2, 256, true));
  const auto submit = [&](int n, int n_predict, int last) {
    engine::GenerationParams params;
    params.sampling.temperature = 0;
    params.sampling.ignore_eos = true;
    params.n_predict = n_predict;
    std::vector<int> prompt(static_cast<size_t>(n), 300);
    prompt.back() = last;
    return rig.generator->submit(std::move(prompt), params);
  };
  const std::vector<int> alone = finish(*submit(151, 5, 302)).result.tokens;
  finish(*submit(200, 1, 303));
  auto elder = submit(150, -1, 301);
  await(*elder, GenerationEvent::Kind::kToken);
  auto newcomer = submit(151, 5, 302);
  const GenerationEvent whole = finish(*elder);
  REQUIRE_MESSAGE(whole.kind == GenerationEvent::Kind::kDone, whole.message);
  CHECK(whole.result.tokens_cached == 255);
  const GenerationEvent later = finish(*newcomer);
  REQUIRE_MESSAGE(later.kind == GenerationEvent::Kind::kDone, later.message);
  CHECK(later.result.tokens == alone);
}

TEST_CASE(
    "a request that has said nothing yet waits for those that outgrow the cache, and nobody overtakes it") {
  Rig rig(slot_options(4, 512, true));
  const std::vector<int> alone = finish(*rig.submit(5, 300, -1, 302)).result.tokens;
  auto elder = rig.submit(-1, 100, -1, 301);
  await(*elder, GenerationEvent::Kind::kToken);
  auto long_prompt = rig.submit(5, 480, -1, 302);  // its pages and the elder's are more than there are
  auto last = rig.submit(5, 300, -1, 302);
  const GenerationEvent whole = finish(*elder), second = finish(*long_prompt), third = finish(*last);
  REQUIRE_MESSAGE(whole.kind == GenerationEvent::Kind::kDone, whole.message);
  CHECK(whole.result.tokens_cached == 511);
  REQUIRE_MESSAGE(second.kind == GenerationEvent::Kind::kDone, second.message);
  CHECK(second.result.n_prompt == 480);
  REQUIRE_MESSAGE(third.kind == GenerationEvent::Kind::kDone, third.message);
  CHECK(third.result.tokens == alone);
  CHECK(rig.generator->view().n_waiting == 0);
  CHECK(rig.generator->view().n_tasks == 4);  // one that starts again is the same task
}

TEST_CASE("memory that runs out in a step ends the requests, not the server") {
  if (kSanitized) {
    MESSAGE("skipped: a sanitizer ends the process where memory runs out");
    return;
  }
  Rig rig(slot_options(1, kLong, false));
  const std::vector<int> expected = finish(*rig.submit(5)).result.tokens;
  engine::GenerationParams params;
  params.sampling.temperature = 0;
  params.sampling.ignore_eos = true;
  params.n_probs = rig.tokenizer->n_vocab();  // nobody fetches them
  auto greedy = rig.generator->submit({300, 300, 300}, params);
  await(*greedy, GenerationEvent::Kind::kToken);
  {
    const fixtures::LittleMemory little(16 << 20);
    if (!little.kept()) {
      MESSAGE("skipped: limits on memory are not kept here");
      greedy->cancel();
      return;
    }
    CHECK(rig.busy_within(std::chrono::seconds(60)) == false);
  }
  const GenerationEvent end = finish(*greedy);
  CHECK(end.kind == GenerationEvent::Kind::kFailed);
  CHECK(end.status == 500);
  CHECK(finish(*rig.submit(5)).result.tokens == expected);
}

TEST_CASE("prompt tokens of a request that is given up have taken time") {
  Rig rig(slot_options(1, kLong, false));
  auto given_up = rig.submit(-1, 4000);
  while (rig.generator->view().slots[0].n_prompt_processed == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  given_up->cancel();
  CHECK(finish(*given_up).status == 503);
  const engine::ServingTotals totals = rig.generator->view().totals;
  CHECK(totals.prompt_tokens > 0);
  CHECK(totals.prompt_s > 0);
}

TEST_CASE("stop() ends every task, running and waiting") {
  Rig rig(slot_options(2, 2 * kLong, false));
  std::vector<std::shared_ptr<engine::Task>> tasks;
  for (int i = 0; i < 5; ++i) {
    tasks.push_back(rig.submit(-1, 3 + 400 * i, -1, 301 + i));
  }
  await(*tasks[0], GenerationEvent::Kind::kToken);
  rig.generator->stop();
  CHECK(rig.generator->stopped_within(std::chrono::seconds(20)));
  for (const auto& task : tasks) {
    CHECK(finish(*task).status == 503);
  }
}

TEST_CASE("POST /reconfigure changes the number of slots, and refuses what does not fit") {
  HttpRig rig([](engine::ServerOptions& o) { o.parallel = 1; });
  const std::string body = R"({"prompt":"a b c","temperature":0,"n_predict":8,"ignore_eos":true})";
  const Json before = rig.json("/completion", body);
  CHECK(rig.props()["n_ctx"] == 1024);
  const os::HttpResponse changed = rig.change(R"({"parallel":4})");
  REQUIRE_MESSAGE(changed.status == 200, changed.body);
  CHECK(Json::parse(changed.body)["tbq"]["n_parallel"] == 4);
  CHECK(Json::parse(changed.body)["tbq"]["n_ctx"] == 256);
  CHECK(Json::parse(rig.get("/props").body)["total_slots"] == 4);
  CHECK(Json::parse(rig.get("/slots").body).size() == 4);
  CHECK(rig.json("/completion", body)["content"] == before["content"]);
  const os::HttpResponse refused = rig.change(R"({"parallel":1024,"ctx_size":1000000000})");
  CHECK(refused.status == 400);
  CHECK(rig.props()["n_parallel"] == 4);
  CHECK(rig.json("/completion", body)["content"] == before["content"]);
}
