// The routes over HTTP, where the pure parts' tests do not reach.

#include "src/engine/routes.h"

#include <doctest/doctest.h>

#include "tests/engine/server_rig.h"

using base::Json;
using fixtures::HttpRig;

namespace {

int status_with_key(const HttpRig& rig, const std::string& header, const std::string& value) {
  os::HttpRequest request;
  request.url = rig.server.url() + "/props";
  request.headers = {{header, value}};
  auto response = os::http(request);
  REQUIRE(response.ok());
  return response->status;
}

}  // namespace

TEST_CASE("an API key opens what is not public; parts of it and more than it do not") {
  HttpRig rig([](engine::ServerOptions& o) { o.api_keys = {"secret-1", "other"}; });
  CHECK(rig.get("/health").status == 200);
  CHECK(rig.get("/v1/models").status == 200);
  for (const char* path : {"/props", "/slots", "/metrics"}) {
    CHECK(rig.get(path).status == 401);
  }
  CHECK(rig.change(R"({"ctx_size":512})").status == 401);
  CHECK(status_with_key(rig, "Authorization", "Bearer secret-1") == 200);
  CHECK(status_with_key(rig, "X-Api-Key", "other") == 200);
  for (const char* wrong : {"", "s", "secret-", "secret-11", "secret-2", "othersecret-1", "secret-1,other"}) {
    CHECK_MESSAGE(status_with_key(rig, "X-Api-Key", wrong) == 401, wrong);
  }
  CHECK(status_with_key(rig, "Authorization", "secret-1") == 401);
}

TEST_CASE("apply-template gives the text that a chat's tokens are made of") {
  HttpRig rig;
  const Json answer = rig.json("/apply-template", R"({"messages":[{"role":"user","content":"Hi"}]})");
  const std::string prompt = answer["prompt"];
  CHECK(prompt.find("<|im_start|>user\nHi<|im_end|>") != std::string::npos);
  const Json tokens =
      rig.json("/tokenize", Json{{"content", prompt}, {"add_special", true}, {"parse_special", true}}.dump());
  const Json chat =
      rig.json("/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}],"max_tokens":1})");
  CHECK(chat["usage"]["prompt_tokens"] == tokens["tokens"].size());
  CHECK(rig.post("/apply-template", "{}").status == 400);
  const Json counted =
      rig.json("/v1/chat/completions/input_tokens", R"({"messages":[{"role":"user","content":"Hi"}]})");
  CHECK(counted["input_tokens"] == tokens["tokens"].size());
  CHECK(rig.post("/chat/completions/input_tokens", "{}").status == 400);
}

TEST_CASE("cache_prompt, logit_bias and id_slot do what they say") {
  HttpRig rig;
  const std::string body =
      R"({"prompt":"one two three four five six","temperature":0,"n_predict":6,"ignore_eos":true)";
  const Json first = rig.json("/completion", body + "}");
  CHECK(first["timings"]["cache_n"] == 0);
  const Json cached = rig.json("/completion", body + "}");
  CHECK(cached["timings"]["prompt_n"] == 1);
  CHECK(cached["content"] == first["content"]);
  const Json fresh = rig.json("/completion", body + R"(,"cache_prompt":false})");
  CHECK(fresh["timings"]["cache_n"] == 0);
  CHECK(fresh["content"] == first["content"]);

  const Json biased = rig.json("/completion", body + R"(,"logit_bias":[[300,1000]],"return_tokens":true})");
  for (const Json& token : biased["tokens"]) {
    CHECK(token == 300);
  }
  CHECK(biased["tokens"].size() == 6);
  const Json banned =
      rig.json("/completion", body + R"(,"logit_bias":[[300,1000],[300,false]],"return_tokens":true})");
  CHECK(banned["tokens"].size() == 6);
  for (const Json& token : banned["tokens"]) {
    CHECK(token != 300);
  }
  CHECK(rig.json("/completion", body + R"(,"id_slot":99})")["id_slot"] == 3);  // of four
  CHECK(rig.post("/completion", body + R"(,"id_slot":"x"})").status == 400);
}

TEST_CASE("what llama-server offers and this server does not is 501, not unknown") {
  HttpRig rig;
  for (const char* path : {"/embedding", "/v1/embeddings", "/rerank", "/infill", "/props", "/slots/0",
                           "/v1/responses", "/v1/messages"}) {
    const os::HttpResponse answer = rig.post(path, "{}");
    CHECK_MESSAGE(answer.status == 501, path);
    CHECK(Json::parse(answer.body)["error"]["type"] == "not_supported_error");
  }
  CHECK(rig.get("/embedding").status == 404);
  CHECK(rig.post("/nope", "{}").status == 404);
  CHECK(rig.post("/tokenize", R"({"content":5})").status == 400);
}

TEST_CASE("a length of 0 is one token in every form, as in llama-server; -1 is the server's own") {
  HttpRig rig([](engine::ServerOptions& o) { o.n_predict = 7; });
  const std::string prompt = R"({"prompt":"a b c","ignore_eos":true,)";
  const std::string chat = R"({"messages":[{"role":"user","content":"hi"}],"ignore_eos":true,)";
  for (const auto& [length, n] : {std::pair<std::string, int>{"0", 1}, {"-1", 7}}) {
    CHECK(rig.json("/completion", prompt + "\"n_predict\":" + length + "}")["tokens_predicted"] == n);
    for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
      const bool is_chat = std::string_view(path).ends_with("chat/completions");
      const Json answer = rig.json(path, (is_chat ? chat : prompt) + "\"max_tokens\":" + length + "}");
      CHECK(answer["usage"]["completion_tokens"] == n);
      CHECK(answer["choices"][0]["finish_reason"] == "length");
    }
  }
}
