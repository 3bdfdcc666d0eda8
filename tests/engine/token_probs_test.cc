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
  const auto probs = *engine::token_probs(logits, 0, 3);
  const double log_sum = std::log(std::exp(1.0) + 2 * std::exp(3.0) + 1);
  CHECK(probs.drawn.token == 0);
  CHECK(probs.drawn.logprob == doctest::Approx(1 - log_sum));
  REQUIRE(probs.top.size() == 3);
  CHECK(probs.top[0].token == 1);
  CHECK(probs.top[1].token == 2);
  CHECK(probs.top[2].token == 0);
  CHECK(engine::token_probs(logits, 3, 0)->drawn.logprob == -infinity);
  CHECK(engine::token_probs(logits, 0, 100)->top.size() == 5);
  // Far from zero nothing overflows.
  CHECK(engine::token_probs(std::vector<float>{1e30F, 1e30F}, 1, 0)->drawn.logprob ==
        doctest::Approx(-std::log(2.0)));
}

TEST_CASE("logits that are no distribution have no probabilities") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {kInfinity, kNan}) {
    for (const int n_top : {0, 1, 3}) {
      CHECK_FALSE(engine::token_probs(std::vector<float>{1, bad, 2}, 0, n_top).has_value());
    }
  }
  CHECK_FALSE(engine::token_probs(std::vector<float>{-kInfinity, -kInfinity}, 0, 1).has_value());
  CHECK(engine::token_probs(std::vector<float>{-kInfinity, 1}, 0, 1)->top[0].logprob == 0);
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

TEST_CASE("one range for the number of probabilities, under every name and in every form") {
  HttpRig rig;
  const std::string prompt = R"("prompt":"a","max_tokens":1,)";
  const std::string chat = R"("messages":[{"role":"user","content":"a"}],"max_tokens":1,)";
  const struct {
    std::string path, fields, name;
  } rows[] = {{"/completion", prompt, "n_probs"},
              {"/completion", prompt, "logprobs"},
              {"/v1/completions", prompt, "logprobs"},
              {"/v1/completions", prompt + R"("echo":true,)", "logprobs"},
              {"/v1/completions", prompt + R"("logprobs":true,)", "n_probs"},
              {"/v1/chat/completions", chat + R"("logprobs":true,)", "top_logprobs"},
              {"/v1/chat/completions", chat + R"("logprobs":false,)", "n_probs"},
              {"/v1/chat/completions", chat, "n_probs"}};
  for (const auto& row : rows) {
    CAPTURE(row.path);
    CAPTURE(row.fields);
    for (const int n : {-1, 1025}) {
      const os::HttpResponse refused =
          rig.post(row.path, "{" + row.fields + "\"" + row.name + "\":" + std::to_string(n) + "}");
      CHECK(refused.status == 400);
      CHECK(Json::parse(refused.body)["error"]["message"] ==
            "Field '" + row.name + "': Value must be between 0 <= value <= 1024, but got " +
                std::to_string(n));
    }
    for (const int n : {0, 1024}) {
      const os::HttpResponse taken =
          rig.post(row.path, "{" + row.fields + "\"" + row.name + "\":" + std::to_string(n) + "}");
      CHECK_MESSAGE(taken.status == 200, taken.body);
    }
  }
}

TEST_CASE("streamed probabilities are those of the whole answer, its end without text included") {
  HttpRig rig;
  const std::string prompt =
      R"("prompt":"<|im_start|>user\nWhat is a mutex?<|im_end|>\n<|im_start|>assistant\n",)";
  const std::string chat = R"("messages":[{"role":"user","content":"What is a mutex?"}],"logprobs":true,)";
  const struct {
    std::string path, body;
  } forms[] = {{"/completion", prompt + R"("n_probs":2,)"},
               {"/v1/completions", prompt + R"("logprobs":2,)"},
               {"/v1/chat/completions", chat + R"("top_logprobs":2,)"}};
  for (const auto& form : forms) {
    CAPTURE(form.path);
    const auto judged = [&](const Json& answer) {
      if (answer.contains("completion_probabilities")) {
        return answer["completion_probabilities"];
      }
      const Json* choice =
          answer.contains("choices") && !answer["choices"].empty() ? &answer["choices"][0] : nullptr;
      return choice && choice->contains("logprobs") && !(*choice)["logprobs"].is_null()
                 ? (*choice)["logprobs"]["content"]
                 : Json::array();
    };
    const std::string body = "{" + form.body + R"("temperature":0,"max_tokens":500)";
    const Json whole = judged(rig.json(form.path, body + "}"));
    REQUIRE(whole.size() > 1);
    REQUIRE(whole.size() < 500);  // it ends by itself
    std::vector<Json> events;
    stream_events(rig.post(form.path, body + R"(,"stream":true})").body, events);
    Json streamed = Json::array();
    for (const Json& event : events) {
      for (const Json& item : judged(event)) {
        streamed.push_back(item);
      }
    }
    CHECK(streamed == whole);
  }
}

TEST_CASE("an answer's probabilities are bounded: refused, or a length where the client set none") {
  HttpRig rig([](engine::ServerOptions& o) { o.context.n_ctx = 4096; });
  const std::string prompt = R"({"prompt":"a b c","temperature":0,"ignore_eos":true,"n_probs":1024)";
  const os::HttpResponse refused = rig.post("/completion", prompt + R"(,"n_predict":300})");
  CHECK(refused.status == 400);
  CHECK(refused.body.find("probabilities") != std::string::npos);
  const Json open =
      rig.json("/completion", prompt + R"(,"response_fields":["tokens_predicted","stop_type"]})");
  CHECK(open["tokens_predicted"] == 256);
  CHECK(open["stop_type"] == "limit");
  CHECK(rig.post("/completion", prompt + R"(,"n_predict":300,"stream":true})").status == 200);
  std::string text, prompts;
  for (int i = 0; i < 3000; ++i) {
    text += "a ";
  }
  for (int i = 0; i < 256; ++i) {
    prompts += (i ? ",\"" : "\"") + text + "\"";
  }
  CHECK(rig.post("/v1/completions", R"({"max_tokens":0,"echo":true,"logprobs":5,"prompt":[)" + prompts + "]}")
            .status == 400);
}

TEST_CASE("usage is that of all answers; a prompt with several answers counts once") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.context.n_ctx = 2048;
    o.parallel = 2;
  });
  const std::string rest = R"(,"max_tokens":4,"ignore_eos":true})";
  const auto usage = [&](const std::string& fields) {
    return rig.json("/v1/completions", fields + rest)["usage"];
  };
  const Json first = usage(R"({"prompt":"one two three")"), second = usage(R"({"prompt":"four")");
  const Json both = usage(R"({"prompt":["one two three","four"])");
  CHECK(both["completion_tokens"] == 8);
  CHECK(both["prompt_tokens"] == first["prompt_tokens"].get<int>() + second["prompt_tokens"].get<int>());
  CHECK(both["total_tokens"] == both["prompt_tokens"].get<int>() + 8);
  const Json twice = usage(R"({"prompt":"one two three","n":2)");
  CHECK(twice["completion_tokens"] == 8);
  CHECK(twice["prompt_tokens"] == first["prompt_tokens"]);
}
