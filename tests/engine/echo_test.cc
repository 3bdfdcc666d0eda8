// /v1/completions with echo: the prompt in the answer, and how likely each of its tokens was.

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "src/engine/token_probs.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/server_rig.h"

using base::Json;
using fixtures::HttpRig;

namespace {

Json choice(const HttpRig& rig, const Json& body) {
  return rig.json("/v1/completions", body.dump())["choices"][0];
}

}  // namespace

TEST_CASE("echo with logprobs: every token of the prompt is judged as the context judges it") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.context.n_batch = 100;  // the prompt takes several steps
    o.context.n_ubatch = 48;
  });
  std::vector<int> prompt;
  for (int i = 0; i < 230; ++i) {
    prompt.push_back(300 + i * 37 % 150);
  }
  const auto model = fixtures::load(fixtures::demo_model());
  engine::ContextOptions options;
  options.n_ctx = 1024;
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const std::vector<float> logits = fixtures::logits(*fixtures::open(model, options), prompt);
  const Json body = {{"prompt", prompt}, {"max_tokens", 1},  {"echo", true},
                     {"logprobs", 1},    {"temperature", 0}, {"ignore_eos", true}};
  for (int round = 0; round < 2; ++round) {  // a cached prompt is judged in full, too
    const Json answer = rig.json("/v1/completions", body.dump());
    const Json& judged = answer["choices"][0]["logprobs"];
    REQUIRE(judged["tokens"].size() == prompt.size() + 1);
    for (const char* key : {"token_logprobs", "top_logprobs", "text_offset"}) {
      REQUIRE(judged[key].size() == prompt.size() + 1);
    }
    CHECK(judged["token_logprobs"][0].is_null());
    CHECK(judged["top_logprobs"][0].is_null());
    for (size_t i = 1; i < prompt.size(); ++i) {
      const auto row = std::span(logits).subspan((i - 1) * n_vocab, n_vocab);
      const engine::TokenProbs want = *engine::token_probs(row, prompt[i], 1);
      CAPTURE(i);
      CHECK(judged["token_logprobs"][i].get<float>() == want.drawn.logprob);
      const Json& top = judged["top_logprobs"][i];
      float best = -1e30F;
      for (const auto& item : top.items()) {
        best = std::max(best, item.value().get<float>());
      }
      CHECK(best == want.top[0].logprob);
      CHECK(top.size() <= 2);  // the token itself may be one more
    }
    CHECK(judged["token_logprobs"].back().is_number());
    CHECK(answer["usage"]["completion_tokens"] == 1);
    CHECK(answer["usage"]["prompt_tokens"] == prompt.size());
    CHECK(answer["timings"]["prompt_n"] == prompt.size());
  }
  // The rows stay for those who may reuse them.
  const Json plain = rig.json("/v1/completions", Json{{"prompt", prompt}, {"max_tokens", 1}}.dump());
  CHECK(plain["timings"]["cache_n"] == prompt.size() - 1);
}

TEST_CASE("echo: the text as it was sent, offsets into it, and nothing more with max_tokens 0") {
  HttpRig rig;
  const std::string text = "Grüße an die 世界, one two three";
  const Json whole = choice(rig, {{"prompt", text}, {"max_tokens", 3}, {"echo", true}, {"temperature", 0}});
  const Json plain = choice(rig, {{"prompt", text}, {"max_tokens", 3}, {"temperature", 0}});
  CHECK(whole["text"] == text + plain["text"].get<std::string>());
  CHECK(whole["logprobs"].is_null());
  CHECK(plain["logprobs"].is_null());

  const Json only =
      choice(rig, {{"prompt", text}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}, {"temperature", 0}});
  CHECK(only["text"] == text);
  CHECK(only["finish_reason"] == "length");
  const Json& judged = only["logprobs"];
  const Json tokens =
      rig.json("/tokenize", Json{{"content", text}, {"add_special", true}, {"parse_special", true}}.dump());
  CHECK(judged["tokens"].size() == tokens["tokens"].size());
  CHECK(judged["text_offset"][0] == 0);
  int last = 0;
  for (const Json& offset : judged["text_offset"]) {
    CHECK(offset.get<int>() >= last);
    last = offset.get<int>();
  }
  // The last token's text begins where its offset says, in characters.
  const std::string piece = judged["tokens"].back();
  REQUIRE(text.ends_with(piece));
  CHECK(last == 30 - static_cast<int>(piece.size()));

  const Json answer = rig.json(
      "/v1/completions", Json{{"prompt", text}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 5}}.dump());
  CHECK(answer["usage"]["completion_tokens"] == 0);
  CHECK(answer["timings"]["prompt_ms"].get<double>() > 0);
  CHECK(answer["choices"][0]["logprobs"]["top_logprobs"][1].size() >= 5);

  const Json two =
      rig.json("/v1/completions", Json{{"prompt", {"a b", "c"}}, {"max_tokens", 0}, {"echo", true}}.dump());
  CHECK(two["choices"][0]["text"] == "a b");
  CHECK(two["choices"][1]["text"] == "c");
  for (const Json& prompt : {Json{{"prompt_string", text}}, Json::array({Json{{"prompt_string", text}}})}) {
    CHECK(choice(rig, {{"prompt", prompt}, {"max_tokens", 0}, {"echo", true}})["text"] == text);
  }
}

TEST_CASE("echo in a stream comes first; what cannot be is a 400 that says so") {
  HttpRig rig;
  const Json body = {{"prompt", "a b c"}, {"max_tokens", 3}, {"echo", true}, {"temperature", 0}};
  Json streamed = body;
  streamed["stream"] = true;
  std::string text;
  os::SseParser parser;
  parser.feed(rig.post("/v1/completions", streamed.dump()).body, [&](std::string_view data) {
    text += data == "[DONE]" ? "" : Json::parse(data)["choices"][0]["text"].get<std::string>();
  });
  CHECK(text == choice(rig, body)["text"].get<std::string>());
  const auto refused = [&](const char* key, const Json& value, std::string_view why) {
    Json wrong = body;
    wrong[key] = value;
    const os::HttpResponse response = rig.post("/v1/completions", wrong.dump());
    CAPTURE(response.body);
    CHECK(response.status == 400);
    CHECK(response.body.find(why) != std::string::npos);
  };
  refused("suffix", "end", "'suffix'");
  refused("best_of", 2, "'best_of'");
  refused("echo", "yes", "'echo'");
  refused("logprobs", 1025, "Field 'logprobs': Value must be between 0 <= value <= 1024, but got 1025");
  refused("logprobs", true,
          "Field 'logprobs': [json.exception.type_error.302] type must be number, but is boolean");
  streamed["logprobs"] = 1;
  CHECK(rig.post("/v1/completions", streamed.dump()).status == 400);
}
