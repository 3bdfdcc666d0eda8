#include "src/engine/api.h"

#include <doctest/doctest.h>

#include <limits>

#include "tests/engine/vocab_fixture.h"

using base::Json;
using engine::CompletionRequest;

namespace {

engine::GenerationResult some_result() {
  engine::GenerationResult r;
  r.content = "a\nb";
  r.tokens = {5, 6, 7, 8};
  r.n_prompt = 3;
  r.tokens_cached = 6;
  r.stop_type = engine::StopType::kLimit;
  r.seed = 1;
  r.timings = {2, 1, 4.0, 4, 6.0};
  return r;
}

engine::AnswerFacts some_facts() {
  return {"m.gguf", "chatcmpl-x", "fp", "<s> abc", 1795225948, 0, 3};
}

std::string keys(const Json& object) {
  std::string out;
  for (const auto& [key, value] : object.items()) {
    out += key + " ";
  }
  return out;
}

std::string completion_error(const std::string& text) {
  static const engine::Tokenizer tokenizer = test::small_vocabulary();
  Json body;
  auto error = engine::parse_body(text, body);
  CompletionRequest request;
  if (!error) {
    error = engine::parse_completion(body, tokenizer, {}, request);
  }
  std::vector<std::vector<int>> prompts;
  bool several = false;
  if (!error) {
    error = engine::parse_prompts(body, tokenizer, 1000, prompts, several);
  }
  return error ? engine::error_body(*error) : "";
}

}  // namespace

TEST_CASE("errors are llama-server's, byte for byte") {
  struct Row {
    const char *request, *answer;
  };
  // The right side is copied from what a real llama-server answered.
  const Row rows[] = {
      {R"({"prompt": )",
       R"({"error":{"code":500,"message":"[json.exception.parse_error.101] parse error at line 1, column 12: syntax error while parsing value - unexpected end of input; expected '[', '{', or a literal","type":"server_error"}})"},
      {R"({"n_predict": 1})",
       R"({"error":{"code":400,"message":"[json.exception.out_of_range.403] key 'prompt' not found","type":"invalid_request_error"}})"},
      {R"({"prompt": "a", "n_predict": "x"})",
       R"({"error":{"code":400,"message":"Field 'n_predict': [json.exception.type_error.302] type must be number, but is string","type":"invalid_request_error"}})"},
      {R"({"prompt": "a", "repeat_last_n": -1})",
       R"({"error":{"code":400,"message":"Field 'repeat_last_n': Value must be between 0 <= value <= 2147483647, but got -1","type":"invalid_request_error"}})"},
      {R"({"prompt": "a", "n_predict": -2})",
       R"({"error":{"code":400,"message":"Field 'n_predict': Value must be between -1 <= value <= 2147483647, but got -2","type":"invalid_request_error"}})"},
      {R"({"prompt": {"x": 1}})",
       R"({"error":{"code":400,"message":"\"prompt\" elements must be a string, a list of tokens, a JSON object containing a prompt string, or a list of mixed strings & tokens.","type":"invalid_request_error"}})"},
      {R"({"prompt": [999999], "n_predict": 1})",
       R"({"error":{"code":400,"message":"Prompt contains invalid tokens","type":"invalid_request_error"}})"},
  };
  for (const Row& row : rows) {
    CHECK(completion_error(row.request) == row.answer);
  }
  CHECK(engine::http_layer_error_body(503, "Loading model") ==
        R"({"error":{"message":"Loading model","type":"unavailable_error","code":503}})");
  CHECK(engine::http_layer_error_body(404, "File Not Found") ==
        R"({"error":{"message":"File Not Found","type":"not_found_error","code":404}})");
  CHECK(
      engine::error_body(*engine::check_context(std::vector<int>(3002), 1024)) ==
      R"({"error":{"code":400,"message":"request (3002 tokens) exceeds the available context size (1024 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":3002,"n_ctx":1024}})");
  CHECK_FALSE(engine::check_context(std::vector<int>(1023), 1024).has_value());
  CHECK(engine::check_context(std::vector<int>(1024), 1024).has_value());
}

TEST_CASE("fields become parameters, aliases and nulls included") {
  engine::Tokenizer tokenizer = test::small_vocabulary();
  CompletionRequest r;
  Json body = Json::parse(
      R"({"n_predict": null, "max_tokens": 2, "temperature": -1, "top_p": 7, "seed": -1, "stop": "x", "cache_prompt": false,
          "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true, "response_fields": ["content"],
          "logit_bias": [[5, 1.5], ["a", false], [99999, 1]], "unknown_field": 1})");
  REQUIRE_FALSE(engine::parse_completion(body, tokenizer, {}, r).has_value());
  CHECK(r.params.n_predict == 2);
  CHECK(r.params.sampling.temperature == 0);
  CHECK(r.params.sampling.top_p == 1);
  CHECK(r.params.sampling.seed == engine::kRandomSeed);
  CHECK(r.params.sampling.ignore_eos);
  CHECK(r.params.stop == std::vector<std::string>{"x"});
  CHECK_FALSE(r.params.cache_prompt);
  CHECK(r.stream);
  CHECK(r.include_usage);
  REQUIRE(r.params.sampling.logit_bias.size() == 3);  // token 5, the two of " a", nobody for 99999
  CHECK(r.params.sampling.logit_bias[0] == std::pair<int, float>{5, 1.5F});
  CHECK(r.params.sampling.logit_bias[1].second == -std::numeric_limits<float>::infinity());
  CompletionRequest both;
  REQUIRE_FALSE(
      engine::parse_completion(Json::parse(R"({"max_tokens": 2, "n_predict": 3})"), tokenizer, {}, both)
          .has_value());
  CHECK(both.params.n_predict == 3);
  engine::GenerationParams defaults;
  defaults.n_predict = 50;
  CompletionRequest open;
  REQUIRE_FALSE(
      engine::parse_completion(Json::parse(R"({"n_predict": -1})"), tokenizer, defaults, open).has_value());
  CHECK(open.params.n_predict == 50);
}

TEST_CASE("what is not implemented is refused, unless it changes nothing") {
  for (const char* field :
       {R"("grammar": "root ::= x")", R"("post_sampling_probs": true)", R"("repeat_penalty": 1.1)",
        R"("mirostat": 1)", R"("tools": [{}])", R"("response_format": {"type": "json_object"})",
        R"("response_format": {"type": 5})", R"("response_format": 5)", R"("json_schema": {"a": 1})"}) {
    std::string error = completion_error(std::string(R"({"prompt": "a", )") + field + "}");
    CHECK_MESSAGE(error.find("not supported") != std::string::npos, field);
  }
  CHECK(completion_error(
            R"({"prompt": "a", "grammar": "", "n": 1, "n_probs": 0, "logprobs": null, "repeat_penalty": 1.0,
      "mirostat": 0, "tools": [], "response_format": {"type": "text"}, "presence_penalty": 0.0})") == "");
}

TEST_CASE("prompts: text, ids, mixed, and arrays of them") {
  engine::Tokenizer t = test::small_vocabulary();
  auto prompts = [&](const char* text, bool& several) {
    std::vector<std::vector<int>> out;
    auto error = engine::parse_prompts(Json{{"prompt", Json::parse(text)}}, t, 1000, out, several);
    CHECK_FALSE(error.has_value());
    return out;
  };
  bool several = false;
  std::vector<int> a = t.encode("a", true, true);
  CHECK(prompts(R"("a")", several) == std::vector<std::vector<int>>{a});
  CHECK_FALSE(several);
  CHECK(prompts("[1, 2, 3]", several) == std::vector<std::vector<int>>{{1, 2, 3}});
  CHECK_FALSE(several);
  std::vector<int> mixed = t.encode("a", false, true);
  mixed.insert(mixed.begin(), 7);
  CHECK(prompts(R"([7, "a"])", several) == std::vector<std::vector<int>>{mixed});
  CHECK_FALSE(several);
  CHECK(prompts(R"(["a", [1, 2], {"prompt_string": "a"}])", several) ==
        std::vector<std::vector<int>>{a, {1, 2}, a});
  CHECK(several);
  CHECK(prompts(R"("")", several) == std::vector<std::vector<int>>{{t.bos()}});
}

TEST_CASE("text that cannot fit the context is refused before it is tokenized, text that might is not") {
  const engine::Tokenizer t = test::small_vocabulary();
  const size_t longest = t.max_token_bytes();
  REQUIRE(longest > 1);
  CHECK_FALSE(engine::check_text(std::string(10 * longest, 'a'), t, 10).has_value());
  const auto error = engine::check_text(std::string(11 * longest, 'a'), t, 10);
  REQUIRE(error.has_value());
  CHECK(error->type == "exceed_context_size_error");
  CHECK(error->message.find("request (at least 11 tokens) exceeds the available context size (10") == 0);
  CHECK(error->extra.dump() == R"({"n_prompt_tokens":11,"n_ctx":10})");
  std::vector<std::vector<int>> out;
  bool several = false;
  const std::string text(11 * longest, 'a');
  for (const Json& prompt :
       {Json(text), Json{{"prompt_string", text}}, Json::array({1, text}), Json::array({text, text})}) {
    const auto refused = engine::parse_prompts(Json{{"prompt", prompt}}, t, 10, out, several);
    REQUIRE(refused.has_value());
    CHECK(refused->type == "exceed_context_size_error");
  }
}

TEST_CASE("timings follow llama-server's formulas") {
  Json t = engine::timings_json({24, 4, 8.0, 5, 2.0});
  CHECK(keys(t) ==
        "cache_n prompt_n prompt_ms prompt_per_token_ms prompt_per_second predicted_n predicted_ms "
        "predicted_per_token_ms "
        "predicted_per_second ");
  CHECK(t["prompt_per_token_ms"] == 2.0);
  CHECK(t["prompt_per_second"] == 500.0);
  CHECK(t["predicted_per_token_ms"] == 0.5);  // n - 1
  CHECK(t["predicted_per_second"] == 2000.0);
  Json one = engine::timings_json({0, 1, 1.0, 1, 0.001});
  CHECK(one["predicted_per_second"] == 0.0);
  CHECK(one["predicted_per_token_ms"] == 0.0);
}

TEST_CASE("answers have llama-server's keys in its order") {
  CompletionRequest request;
  Json whole = engine::completion_answer(some_facts(), request, some_result());
  CHECK(keys(whole) ==
        "index content tokens id_slot stop model tokens_predicted tokens_evaluated generation_settings "
        "prompt has_new_line "
        "truncated stop_type stopping_word tokens_cached timings ");
  CHECK(whole["content"] == "a\nb");
  CHECK(whole["has_new_line"] == true);
  CHECK(whole["stop_type"] == "limit");
  CHECK(whole["tokens"].empty());
  request.stream = true;
  request.return_tokens = true;
  Json last = engine::completion_answer(some_facts(), request, some_result());
  CHECK(last["content"] == "");
  CHECK(last["tokens"].empty());

  CHECK(keys(engine::chat_answer(some_facts(), some_result())) ==
        "choices created model system_fingerprint object usage id timings ");
  CHECK(
      base::dump_line(engine::chat_answer(some_facts(), some_result())["usage"]) ==
      R"({"completion_tokens":4,"prompt_tokens":3,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}})");
  CHECK(
      base::dump_line(engine::chat_role_chunk(some_facts())) ==
      R"({"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1795225948,"id":"chatcmpl-x","model":"m.gguf","system_fingerprint":"fp","object":"chat.completion.chunk"})");
  CHECK(base::dump_line(engine::chat_text_chunk(some_facts(), "GR", {})["choices"]) ==
        R"([{"finish_reason":null,"index":0,"delta":{"content":"GR"}}])");
  CHECK(base::dump_line(engine::chat_finish_chunk(some_facts(), some_result(), false)["choices"]) ==
        R"([{"finish_reason":"length","index":0,"delta":{}}])");
  Json usage = engine::chat_usage_chunk(some_facts(), some_result());
  CHECK(base::dump_line(usage["choices"]) == "[]");
  CHECK(keys(usage) == "choices created id model system_fingerprint object usage timings ");
  engine::GenerationResult done = some_result();
  CHECK(keys(engine::oai_completion(some_facts(), "x", &done, {})) ==
        "choices created model system_fingerprint object usage id timings ");
  CHECK(keys(engine::oai_completion(some_facts(), "x", nullptr, {})) ==
        "choices created model system_fingerprint object id ");
}

TEST_CASE("stream chunks, response_fields and invalid UTF-8") {
  CompletionRequest request;
  engine::GenerationEvent event;
  event.token = 30227;
  event.text = "\xE2\x94\x94";
  CHECK(base::dump_line(engine::completion_chunk(some_facts(), request, event, 1)) ==
        "{\"index\":0,\"content\":\"\xE2\x94\x94\",\"tokens\":[30227],\"stop\":false,\"id_slot\":-1,\"tokens_"
        "predicted\":1,"
        "\"tokens_evaluated\":3}");
  event.text = "a\xFF";
  CHECK(base::dump_line(engine::completion_chunk(some_facts(), request, event, 1)).find("a\xEF\xBF\xBD") !=
        std::string::npos);
  Json whole = engine::completion_answer(some_facts(), request, some_result());
  CHECK(base::dump_line(
            engine::select_fields(whole, {"tokens_predicted", "generation_settings/n_predict", "no/such"})) ==
        R"({"tokens_predicted":4,"generation_settings/n_predict":-1})");
}

TEST_CASE("tokenize shows pieces that are no UTF-8 as bytes") {
  engine::Tokenizer t = test::small_vocabulary();
  std::vector<int> tokens = t.encode("\xC3\xB6", false, true);
  CHECK(base::dump_line(engine::tokens_json(tokens, t, true)["tokens"][1]["piece"]) == "[195]");
  CHECK(base::dump_line(engine::tokens_json({t.bos()}, t, false)) == R"({"tokens":[1]})");
  std::vector<int> out;
  CHECK_FALSE(engine::parse_tokens(Json::parse(R"({"tokens": [1, 2]})"), t, out).has_value());
  CHECK(out == std::vector<int>{1, 2});
  CHECK(engine::parse_tokens(Json::parse(R"({"tokens": [-1]})"), t, out).has_value());
  CHECK(engine::parse_tokens(Json::parse(R"({"tokens": ["a"]})"), t, out).has_value());
}

TEST_CASE("text to tokenize: a string, or strings and ids; nothing else passes for no text") {
  const engine::Tokenizer t = test::small_vocabulary();
  auto read = [&](const char* body, std::vector<int>& out) {
    out.clear();
    return engine::parse_text(Json::parse(body), t, out);
  };
  std::vector<int> tokens;
  CHECK_FALSE(read(R"({"content": "ab", "add_special": true})", tokens).has_value());
  CHECK(tokens == t.encode("ab", true, true));
  CHECK_FALSE(read(R"({"content": [5, "ab", "c"], "add_special": true})", tokens).has_value());
  std::vector<int> mixed = {5};
  for (const char* piece : {"ab", "c"}) {
    const std::vector<int> more = t.encode(piece, false, true);
    mixed.insert(mixed.end(), more.begin(), more.end());
  }
  CHECK(tokens == mixed);
  CHECK_FALSE(read(R"({"content": "<|im_end|>", "parse_special": false})", tokens).has_value());
  CHECK(tokens.size() > 1);
  CHECK_FALSE(read("{}", tokens).has_value());
  CHECK(tokens.empty());
  for (const char* wrong : {R"({"content": 5})", R"({"content": {"a": 1}})", R"({"content": ["a", 1.5]})",
                            R"({"content": [-1]})", R"({"content": [99999]})", R"({"content": [["a"]]})"}) {
    CHECK_MESSAGE(read(wrong, tokens).has_value(), wrong);
  }
}

TEST_CASE("n: as many answers as there are slots") {
  CHECK(
      completion_error(R"({"prompt": "a", "n": 2})") ==
      R"({"error":{"code":400,"message":"Field 'n': Value must be between 1 <= value <= 1, but got 2","type":"invalid_request_error"}})");
  CHECK(completion_error(R"({"prompt": "a", "n_cmpl": 0})").find("but got 0") != std::string::npos);
  CompletionRequest r;
  r.n_max = 3;
  CHECK_FALSE(engine::parse_completion(Json{{"n", 3}}, test::small_vocabulary(), {}, r).has_value());
  CHECK(r.n == 3);
}

TEST_CASE("seeds of any size are taken, and what llama-server checks is checked") {
  const engine::Tokenizer tokenizer = test::small_vocabulary();
  auto seed = [&](const char* text) {
    CompletionRequest r;
    CHECK_FALSE(engine::parse_completion(Json{{"seed", Json::parse(text)}}, tokenizer, {}, r).has_value());
    return r.params.sampling.seed;
  };
  CHECK(seed("7") == 7);
  CHECK(seed("-5") == engine::kRandomSeed);
  CHECK(seed("4294967303") == 7);
  CHECK(seed("1e300") == seed("9e18"));
  CHECK(completion_error(R"({"prompt": "a", "seed": "x"})").find("type must be number") != std::string::npos);
  CHECK(completion_error(R"({"prompt": "a", "n_keep": -5})").find("-1 <= value") != std::string::npos);
  CHECK(completion_error(R"({"prompt": "a", "n_discard": -5})").find("0 <= value") != std::string::npos);
  CHECK(completion_error(R"({"prompt": []})") ==
        R"({"error":{"code":400,"message":"\"prompt\" must not be empty","type":"invalid_request_error"}})");
}
