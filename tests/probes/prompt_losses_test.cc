// Log-probabilities of a prompt: the answer's form, the chunks, servers that do not give them.
#include "probes/prompt_losses.h"

#include <fmt/format.h>

#include <atomic>
#include <cmath>

#include "tests/probes/scripted_server.h"

using namespace probes;
using base::Json;

namespace {

// An answer for n prompt tokens of probability 1/2 each, and one that was generated.
Json answer(size_t n, bool usage = true) {
  Json tokens = Json::array(), values = Json::array(), tops = Json::array();
  for (size_t i = 0; i <= n; ++i) {
    tokens.push_back(fmt::format("t{}", i));
    values.push_back(i == 0 ? Json(nullptr) : Json(-std::log(2.0)));
    tops.push_back(i == 0 ? Json(nullptr) : Json({{fmt::format("t{}", i), -0.6}, {"x", -1.0}}));
  }
  Json choice = {{"text", "x"},
                 {"logprobs", {{"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}}}};
  Json json = {{"choices", Json::array({choice})}};
  if (usage) {
    json["usage"] = {{"prompt_tokens", n}};
  }
  return json;
}

std::string why(const Json& json) {
  EchoedPrompt echo = read_echo(json);
  CHECK(echo.refused.starts_with("this server gives no prompt log-probabilities"));
  CHECK(echo.losses.empty());
  return echo.refused;
}

void send(os::HttpReply& reply, const Json& json) {
  reply.send(200, "application/json", base::dump_line(json));
}

}  // namespace

TEST_CASE("an echoed prompt: its own tokens, without the generated one") {
  for (bool usage : {true, false}) {
    EchoedPrompt echo = read_echo(answer(6, usage));
    REQUIRE_EQ(echo.refused, "");
    REQUIRE_EQ(echo.tokens.size(), 6);
    CHECK_EQ(echo.tokens.back(), "t5");
    CHECK_EQ(echo.losses[0].nll, -1);
    CHECK(echo.losses[5].nll == doctest::Approx(std::log(2.0)));
    CHECK_GE(echo.losses[5].top, 0);
    CHECK_NE(echo.losses[5].top, echo.losses[4].top);
    CHECK(perplexity_of({echo.losses.begin() + 1, echo.losses.end()}) == doctest::Approx(2));
  }
  Json json = answer(6);
  json["choices"][0]["logprobs"].erase("top_logprobs");
  CHECK_EQ(read_echo(json).losses[3].top, -1);
}

TEST_CASE("what is no log-probability of a prompt is told apart") {
  // llama-server: those of the generated tokens.
  Json generated = {
      {"choices", {{{"text", " and"}, {"logprobs", {{"content", {{{"id", 1}, {"logprob", -1.0}}}}}}}}}};
  CHECK(why(generated).find("no logprobs.tokens") != std::string::npos);
  CHECK(why(Json::array()).find("no logprobs.tokens") != std::string::npos);
  CHECK(why({{"choices", {{{"logprobs", nullptr}}}}}).find("no logprobs.tokens") != std::string::npos);
  Json one = answer(0);
  CHECK(why(one).find("generated tokens alone") != std::string::npos);
  Json fewer = answer(6);
  fewer["usage"]["prompt_tokens"] = 60;
  CHECK(why(fewer).find("7 of the prompt's 60") != std::string::npos);
  Json hole = answer(6);
  hole["choices"][0]["logprobs"]["token_logprobs"][3] = nullptr;
  CHECK(why(hole).find("token 3") != std::string::npos);
  CHECK_FALSE(read_echo(hole).for_good);  // numbers that are none: of this configuration, perhaps
  CHECK(read_echo(generated).for_good);
  Json impossible = answer(6);
  impossible["choices"][0]["logprobs"]["token_logprobs"][3] = -3.4e38;
  CHECK(why(impossible).find("token 3") != std::string::npos);
}

TEST_CASE("a text is cut into whole pieces, never inside a character") {
  std::string text;
  while (text.size() < 1000) {
    text += "gr\xc3\xbc\xc3\x9f";  // no blank anywhere
  }
  auto pieces = pieces_of(text, 50, 4);
  REQUIRE_EQ(pieces.size(), 4);
  for (const std::string& piece : pieces) {
    CHECK_LE(piece.size(), 150);
    CHECK_GE(piece.size(), 147);
    CHECK_NE(static_cast<unsigned char>(piece[0]) & 0xc0, 0x80);
  }
  CHECK_EQ(pieces_of(text, 50, 100).size(), 6);
  CHECK(pieces_of("short", 50, 4).empty());
  CHECK_EQ(pieces_of("one two three four five six", 4, 1).front(), "one two");
}

TEST_CASE("tokens where the server counts them, text where it does not; the second half is scored") {
  std::string corpus;
  while (corpus.size() < 4000) {
    corpus += "word ";
  }
  tests::Scripted server([&](const Json& body, int, os::HttpReply& reply) {
    if (body.contains("content")) {
      Json ids = Json::array();
      if (body["add_special"] == true) {
        ids.push_back(1);
      }
      for (size_t i = 0; i < body["content"].get_ref<const std::string&>().size() / 4; ++i) {
        ids.push_back(static_cast<int>(i) + 10);
      }
      if (ids.empty()) {
        ids.push_back(9);  // "a"
      }
      send(reply, {{"tokens", ids}});
      return;
    }
    CHECK_EQ(body["echo"], true);
    CHECK_EQ(body["max_tokens"], 1);
    CHECK_EQ(body["logprobs"], 1);
    bool ids = body["prompt"].is_array();
    send(reply,
         answer(ids ? body["prompt"].size() : body["prompt"].get_ref<const std::string&>().size() / 4));
  });
  PromptLossOptions options;
  options.text = corpus;
  options.n_ctx = 128;
  options.chunks = 3;
  auto native = run_prompt_losses(server.endpoint, options);
  REQUIRE(native.ok());
  CHECK_EQ(native->unsupported, "");
  CHECK_EQ(native->chunks, 3);
  CHECK_EQ(native->losses.size(), 3 * 64);
  CHECK(perplexity_of(native->losses) == doctest::Approx(2));
  const Json& prompt = server.bodies.back()["prompt"];
  REQUIRE_EQ(prompt.size(), 128);
  CHECK_EQ(prompt[0], 1);             // as a text begins
  CHECK_EQ(prompt[1], 10 + 2 * 127);  // where the second chunk ended
  CHECK_EQ(run_prompt_losses(server.endpoint, options)->text_hash, native->text_hash);

  server.endpoint.native = false;
  server.endpoint.model = "m";
  auto plain = run_prompt_losses(server.endpoint, options);
  REQUIRE(plain.ok());
  CHECK_EQ(plain->chunks, 3);
  CHECK(server.bodies.back()["prompt"].is_string());
  CHECK_EQ(server.bodies.back()["model"], "m");
  CHECK_FALSE(server.bodies.back().contains("cache_prompt"));
  CHECK_EQ(*refuses_prompt_losses(server.endpoint), "");

  options.text = "too short";
  auto none = run_prompt_losses(server.endpoint, options);
  REQUIRE(none.ok());
  CHECK(none->unsupported.find("shorter than one chunk") != std::string::npos);
}

TEST_CASE("a server without the route refuses; a dead one is an error") {
  tests::Scripted server([](const Json&, int, os::HttpReply& reply) {
    reply.send(404, "application/json", R"({"error":{"message":"File Not Found"}})");
  });
  auto refused = refuses_prompt_losses(server.endpoint);
  REQUIRE(refused.ok());
  CHECK(refused->find("HTTP 404") != std::string::npos);
  PromptLossOptions options;
  options.text = std::string(4000, 'a');
  auto losses = run_prompt_losses(server.endpoint, options);
  REQUIRE(losses.ok());
  CHECK_EQ(losses->unsupported, *refused);
  CHECK(losses->for_good);
  CHECK(losses->losses.empty());
  server.endpoint.base_url = "http://127.0.0.1:1";
  CHECK_FALSE(refuses_prompt_losses(server.endpoint).ok());
  CHECK_FALSE(run_prompt_losses(server.endpoint, options).ok());
}

TEST_CASE("a server that is busy, or stops giving them halfway, has not refused for good") {
  std::atomic<int> good{0};
  tests::Scripted server([&](const Json& body, int, os::HttpReply& reply) {
    if (body.contains("content")) {
      reply.send(404, "application/json", "{}");
    } else if (good-- > 0) {
      send(reply, answer(body["prompt"].get_ref<const std::string&>().size() / 4));
    } else {
      reply.send(good < -10 ? 503 : 404, "application/json", "{}");
    }
  });
  PromptLossOptions options;
  options.text = std::string(40000, 'a');
  good = 2;
  auto halfway = run_prompt_losses(server.endpoint, options);
  REQUIRE(halfway.ok());
  CHECK(halfway->unsupported.find("HTTP 404") != std::string::npos);
  CHECK(halfway->losses.empty());
  CHECK_FALSE(halfway->for_good);
  good = -20;
  auto busy = run_prompt_losses(server.endpoint, options);
  REQUIRE(busy.ok());
  CHECK(busy->unsupported.find("HTTP 503") != std::string::npos);
  CHECK_FALSE(busy->for_good);
  CHECK_EQ(*refuses_prompt_losses(server.endpoint), "");
}
