#include "src/engine/token_probs.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/engine/server_rig.h"

using base::Json;
using fixtures::HttpRig;

namespace {

void stream_events(const std::string& body, std::vector<Json>& events) {
  os::SseParser parser;
  parser.feed(body, [&](std::string_view data) {
    if (data != "[DONE]") {
      events.push_back(Json::parse(data));
    }
  });
}

}  // namespace

TEST_CASE("token_probs: log of the softmax, likeliest first, equals by id") {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1.0F, 3.0F, 3.0F, -infinity, 0.0F};
  const auto probs = engine::token_probs(logits, 0, 3);
  const double log_sum = std::log(std::exp(1.0) + 2 * std::exp(3.0) + 1);
  CHECK(probs.drawn.token == 0);
  CHECK(probs.drawn.logprob == doctest::Approx(1 - log_sum));
  REQUIRE(probs.top.size() == 3);
  CHECK(probs.top[0].token == 1);
  CHECK(probs.top[1].token == 2);
  CHECK(probs.top[2].token == 0);
  CHECK(engine::token_probs(logits, 3, 0).drawn.logprob == -infinity);
  CHECK(engine::token_probs(logits, 0, 100).top.size() == 5);
  // Far from zero nothing overflows.
  CHECK(engine::token_probs(std::vector<float>{1e30F, 1e30F}, 1, 0).drawn.logprob ==
        doctest::Approx(-std::log(2.0)));
}

TEST_CASE("n_probs and logprobs: in every form, whole and streamed, a stop word's tokens left out") {
  HttpRig rig;
  const std::string prompt =
      R"({"prompt":"<|im_start|>user\nWhat is a mutex?<|im_end|>\n<|im_start|>assistant\n","temperature":0)";
  const Json whole = rig.json("/completion", prompt + R"(,"n_predict":12,"n_probs":3,"return_tokens":true})");
  const Json& probs = whole["completion_probabilities"];
  REQUIRE(probs.size() == whole["tokens"].size());
  for (size_t i = 0; i < probs.size(); ++i) {
    CHECK(probs[i]["id"] == whole["tokens"][i]);
    REQUIRE(probs[i]["top_logprobs"].size() == 3);
    CHECK(probs[i]["top_logprobs"][0]["id"] == probs[i]["id"]);  // greedy
    CHECK(probs[i]["logprob"].get<double>() <= 0);
    CHECK(probs[i]["top_logprobs"][1]["logprob"].get<double>() <= probs[i]["logprob"].get<double>());
  }
  CHECK(whole["generation_settings"]["n_probs"] == 3);
  CHECK(!rig.json("/completion", prompt + R"(,"n_predict":2})").contains("completion_probabilities"));

  std::vector<Json> events;
  stream_events(rig.post("/completion", prompt + R"(,"n_predict":12,"n_probs":3,"stream":true})").body,
                events);
  Json streamed = Json::array();
  for (const Json& event : events) {
    if (event.contains("completion_probabilities")) {
      for (const Json& item : event["completion_probabilities"]) {
        streamed.push_back(item);
      }
    }
  }
  CHECK(streamed == probs);

  const Json stopped = rig.json("/completion", prompt + R"(,"n_probs":1,"stop":["thread"]})");
  REQUIRE(stopped["stop_type"] == "word");
  std::string text;
  for (const Json& item : stopped["completion_probabilities"]) {
    text += item["token"].get<std::string>();
  }
  CHECK(text.starts_with(stopped["content"].get<std::string>()));
  CHECK(text.size() <
        stopped["content"].get<std::string>().size() + 8);  // the stop word may begin inside a token

  const Json oai = rig.json("/v1/completions", prompt + R"(,"max_tokens":3,"logprobs":2})");
  CHECK(oai["choices"][0]["logprobs"]["content"].size() == 3);
  CHECK(oai["choices"][0]["logprobs"]["content"][0]["top_logprobs"].size() == 2);
  CHECK(rig.json("/v1/completions", prompt + R"(,"max_tokens":3})")["choices"][0]["logprobs"].is_null());
  const std::string chat =
      R"({"messages":[{"role":"user","content":"What is a mutex?"}],"temperature":0,"max_tokens":4)";
  const Json answer = rig.json("/v1/chat/completions", chat + R"(,"logprobs":true,"top_logprobs":1})");
  CHECK(answer["choices"][0]["logprobs"]["content"].size() == 4);
  CHECK(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"].size() == 1);
  events.clear();
  stream_events(rig.post("/v1/chat/completions", chat + R"(,"logprobs":true,"stream":true})").body, events);
  size_t n = 0;
  for (const Json& event : events) {
    const Json& choice = event["choices"][0];
    n += choice.contains("logprobs") ? choice["logprobs"]["content"].size() : 0;
  }
  CHECK(n == 4);
  CHECK(rig.post("/v1/chat/completions", chat + R"(,"top_logprobs":1})").status == 400);
  CHECK(rig.post("/completion", prompt + R"(,"n_probs":100000})").status == 400);
}
