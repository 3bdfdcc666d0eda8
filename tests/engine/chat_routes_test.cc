// Chats over HTTP: what a server does with thinking, by its flags and by request.

#include <doctest/doctest.h>

#include <algorithm>

#include "src/os/http_client.h"
#include "tests/engine/server_rig.h"

using base::Json;
using fixtures::HttpRig;

namespace {

// The demo model with the prompts of a family that thinks: what it says first counts as its thinking.
HttpRig::Change as(const char* family, const HttpRig::Change& more = {}) {
  return [family, more](engine::ServerOptions& o) {
    o.chat.chat_template = *engine::ChatTemplate::from_option(family);
    if (more) {
      more(o);
    }
  };
}

std::string question(const std::string& fields = "") {
  return R"({"messages":[{"role":"user","content":"What is a mutex?"}],"temperature":0,"max_tokens":40)" +
         (fields.empty() ? "" : "," + fields) + "}";
}

struct Said {
  std::string reasoning, content;
  int n_tokens = 0;
};

Said ask(const HttpRig& rig, const std::string& fields = "") {
  const Json answer = rig.json("/v1/chat/completions", question(fields));
  const Json& message = answer["choices"][0]["message"];
  return {base::json_get<std::string>(message, "reasoning_content", ""), message["content"],
          answer["usage"]["completion_tokens"]};
}

Said ask_streamed(const HttpRig& rig, const std::string& fields) {
  const std::string body = rig.post("/v1/chat/completions", question(fields + R"(,"stream":true)")).body;
  Said said;
  os::SseParser parser;
  parser.feed(body, [&](std::string_view event) {
    if (event != "[DONE]") {
      const Json delta = Json::parse(event)["choices"][0]["delta"];
      said.reasoning += base::json_get<std::string>(delta, "reasoning_content", "");
      said.content += base::json_get<std::string>(delta, "content", "");
    }
  });
  return said;
}

int n_tokens(const HttpRig& rig, const std::string& text) {
  return static_cast<int>(rig.json("/tokenize", Json{{"content", text}}.dump())["tokens"].size());
}

}  // namespace

TEST_CASE("a budget ends the thinking after its tokens, and the answer follows") {
  const HttpRig rig(as("minimax-m2"));
  const Said all = ask(rig);
  CHECK(all.content.empty());  // the demo model never ends what it takes for an answer
  const Said first = ask(rig, R"("max_tokens":3)");
  const Said cut = ask(rig, R"("reasoning_budget_tokens":3)");
  CHECK(cut.reasoning == first.reasoning);
  CHECK(all.reasoning.starts_with(cut.reasoning));
  CHECK_FALSE(cut.content.empty());
  CHECK(cut.content.find("think>") == std::string::npos);
  CHECK(cut.n_tokens <= 40);
  CHECK(ask(rig, R"("reasoning_budget_tokens":0)").reasoning.empty());
  CHECK_FALSE(ask(rig, R"("thinking_budget_tokens":0)").content.empty());
  const Said told = ask(rig, R"("reasoning_budget_tokens":3,"reasoning_budget_message":" Enough of that.")");
  CHECK(told.reasoning.starts_with(first.reasoning));
  CHECK(told.reasoning.ends_with("Enough of that."));

  const Said streamed = ask_streamed(rig, R"("reasoning_budget_tokens":3)");
  CHECK(streamed.reasoning == cut.reasoning);
  CHECK(streamed.content == cut.content);
  // A budget that is not used up changes nothing.
  CHECK(ask(rig, R"("reasoning_budget_tokens":1000)").reasoning == all.reasoning);
}

TEST_CASE("an answer cut in the middle of the thinking's forced end shows nothing of it") {
  const HttpRig rig(as("minimax-m2"));
  const int n_end = n_tokens(rig, "\n</think>\n\n");
  REQUIRE(n_end > 2);
  const std::string thought = ask(rig, R"("max_tokens":3)").reasoning;
  const std::string within = ask(rig, R"("max_tokens":3,"reasoning_format":"none")").content;
  for (int n = 3; n <= 3 + n_end; ++n) {
    CAPTURE(n);
    const std::string fields = R"("reasoning_budget_tokens":3,"max_tokens":)" + std::to_string(n);
    const Said cut = ask(rig, fields), streamed = ask_streamed(rig, fields);
    CHECK(cut.reasoning == thought);
    CHECK(cut.content.empty());
    CHECK(cut.n_tokens == n);
    CHECK(streamed.reasoning == thought);
    CHECK(streamed.content.empty());
    const std::string raw = fields + R"(,"reasoning_format":"none")";
    const std::string all = ask(rig, raw).content;
    CHECK(ask_streamed(rig, raw).content == all);
    if (n < 3 + n_end) {
      CHECK(all == within);
    } else {
      CHECK(all.starts_with(within));
      CHECK(all.ends_with("\n</think>\n\n"));
    }
  }
}

TEST_CASE("reasoning_format none leaves everything in the answer, what the prompt opened included") {
  const HttpRig rig(as("minimax-m2"));
  const Said apart = ask(rig);
  const Said within = ask(rig, R"("reasoning_format":"none")");
  CHECK(within.reasoning.empty());
  CHECK(within.content.starts_with("<think>\n" + apart.reasoning));
  CHECK(ask_streamed(rig, R"("reasoning_format":"none")").content == within.content);
  const Said cut = ask(rig, R"("reasoning_format":"none","reasoning_budget_tokens":2)");
  CHECK(cut.content.starts_with("<think>\n"));
  CHECK(cut.content.find("</think>") != std::string::npos);
}

TEST_CASE("thinking is switched off by request in every spelling, where the template has its switch") {
  const HttpRig rig(as("qwen3"));
  const std::string empty = "<|im_start|>assistant\n<think>\n\n</think>\n\n";
  for (const char* off :
       {R"("chat_template_kwargs":{"enable_thinking":false})", R"("reasoning_effort":"none")"}) {
    const std::string prompt = rig.json("/apply-template", question(off))["prompt"];
    CHECK_MESSAGE(prompt.ends_with(empty), off);
    CHECK(ask(rig, off).reasoning.empty());
    CHECK(ask(rig, std::string(off) + R"(,"reasoning_format":"none")")
              .content.starts_with("<think>\n\n</think>"));
  }
  const std::string on = rig.json("/apply-template", question())["prompt"];
  CHECK(on.ends_with("<|im_start|>assistant\n"));
}

TEST_CASE("flags set what requests do not") {
  const HttpRig off(as("minimax-m2", [](engine::ServerOptions& o) { o.chat.reasoning.thinking = false; }));
  CHECK(ask(off).reasoning.empty());
  CHECK_FALSE(ask(off, R"("chat_template_kwargs":{"enable_thinking":true})").reasoning.empty());

  const HttpRig budget(as("minimax-m2", [](engine::ServerOptions& o) {
    o.chat.reasoning.budget = 2;
    o.chat.reasoning.budget_message = " So.";
  }));
  CHECK(ask(budget).reasoning.ends_with("So."));
  CHECK(ask(budget, R"("reasoning_budget_tokens":1000)").content.empty());
  const Said lifted = ask(budget, R"("reasoning_budget_tokens":-1)");
  CHECK(lifted.content.empty());
  CHECK(lifted.n_tokens == 40);
  CHECK(lifted.reasoning.find(" So.") == std::string::npos);

  const HttpRig within(as("minimax-m2", [](engine::ServerOptions& o) { o.chat.reasoning.split = false; }));
  CHECK(ask(within).content.starts_with("<think>\n"));
  CHECK_FALSE(ask(within, R"("reasoning_format":"deepseek")").reasoning.empty());
}

TEST_CASE("budgets and speculation: the same answer, with and without guesses") {
  const HttpRig plain(as("minimax-m2"));
  const HttpRig guessing(as("minimax-m2", [](engine::ServerOptions& o) {
    o.speculation.ngram = true;
    o.speculation.n_min = 1;
    o.speculation.n_max = 8;
    o.speculation.n_match = 1;
  }));
  int n_guessed = 0;
  for (int budget : {0, 1, 2, 5, 9, 17, 30}) {
    // Its words again and again, so that there is something to guess.
    const std::string body =
        R"({"messages":[{"role":"user","content":"one two one two one two one two"}],"temperature":0,)"
        R"("max_tokens":60,"ignore_eos":true,"reasoning_budget_tokens":)" +
        std::to_string(budget) + "}";
    const Json a = plain.json("/v1/chat/completions", body), b = guessing.json("/v1/chat/completions", body);
    CHECK_MESSAGE(a["choices"] == b["choices"], budget);
    CHECK(a["usage"]["completion_tokens"] == 60);
    n_guessed += base::json_get(b["timings"], "draft_n", 0);
  }
  CHECK(n_guessed > 0);
}

TEST_CASE("several answers to one question: choices of one object, each with its own seed") {
  const HttpRig rig(as("minimax-m2", [](engine::ServerOptions& o) { o.parallel = 2; }));
  const std::string sampled =
      R"({"messages":[{"role":"user","content":"What is a mutex?"}],"temperature":2,"max_tokens":20,"n":2,)"
      R"("seed":5,"reasoning_budget_tokens":4)";
  const Json both = rig.json("/v1/chat/completions", sampled + "}");
  REQUIRE(both["choices"].size() == 2);
  CHECK(both["choices"][1]["index"] == 1);
  CHECK(both["choices"][0]["message"] != both["choices"][1]["message"]);
  CHECK(rig.json("/v1/chat/completions", sampled + "}")["choices"] == both["choices"]);

  std::string streamed[2];
  int n_roles = 0;
  os::SseParser parser;
  parser.feed(rig.post("/v1/chat/completions", sampled + R"(,"stream":true})").body,
              [&](std::string_view event) {
                if (event != "[DONE]") {
                  const Json choice = Json::parse(event)["choices"][0];
                  n_roles += choice["delta"].contains("role");
                  streamed[choice["index"].get<size_t>()] +=
                      base::json_get<std::string>(choice["delta"], "content", "");
                }
              });
  CHECK(n_roles == 2);
  for (size_t i : {0, 1}) {
    CHECK(streamed[i] == both["choices"][i]["message"]["content"].get<std::string>());
  }
  CHECK(rig.json("/completion", R"({"prompt":"a","n_predict":2,"n_cmpl":2})").size() == 2);
  CHECK(rig.post("/completion", R"({"prompt":"a","n_predict":2,"n_cmpl":3})").status == 400);
}

TEST_CASE("what a server cannot do is refused over HTTP, and it goes on") {
  const HttpRig rig;
  for (const char* fields :
       {R"("tools":[{"type":"function"}])", R"("response_format":{"type":"json_object"})", R"("n":99)",
        R"("grammar":"root ::= x")", R"("stop":5)", R"("logit_bias":5)", R"("reasoning_format":"x")",
        R"("functions":[{"name":"f"}])", R"("t_max_predict_ms":5)", R"("min_tokens":9)", R"("echo":true)",
        R"("chat_template_kwargs":{"thinking":true})"}) {
    const os::HttpResponse refused = rig.post("/v1/chat/completions", question(fields));
    CHECK_MESSAGE(refused.status == 400, fields);
    CHECK(Json::parse(refused.body)["error"]["type"] == "invalid_request_error");
  }
  for (const char* fields : {R"("echo":true)", R"("best_of":2)", R"("suffix":"end")", R"("min_tokens":9)"}) {
    const std::string body = R"({"prompt":"a","n_predict":2,)" + std::string(fields) + "}";
    CHECK_MESSAGE(rig.post("/completion", body).status == 400, fields);
  }
  // What changes nothing is fine, and so is an earlier answer's thinking.
  CHECK(rig.post("/completion", R"({"prompt":"a","n_predict":2,"echo":false,"best_of":1,"suffix":"",)"
                                R"("min_tokens":0,"t_max_predict_ms":-1,"functions":[]})")
            .status == 200);
  CHECK(rig.post("/v1/chat/completions",
                 R"({"max_tokens":2,"messages":[{"role":"user","content":"a"},{"role":"assistant",)"
                 R"("content":"b","reasoning_content":"hm"},{"role":"user","content":"c"}]})")
            .status == 200);
  // A text that cannot fit the context is refused before it is tokenized.
  const std::string much(60000, 'x');
  CHECK(rig.post("/v1/chat/completions", question(R"("reasoning_budget_message":")" + much + "\"")).status ==
        400);
  CHECK(rig.post("/v1/chat/completions", R"({"messages":[]})").status == 400);
  CHECK(rig.post("/v1/chat/completions", "{").status == 500);  // as llama-server answers malformed JSON
  CHECK(rig.json("/v1/chat/completions", question())["choices"].size() == 1);
}

TEST_CASE("a conversation is counted as it is tokenized, and begins with one BOS") {
  const HttpRig rig;
  const Json answer = rig.json("/v1/chat/completions", question());
  const std::string prompt = rig.json("/apply-template", question())["prompt"];
  CHECK_FALSE(prompt.starts_with("<s>"));
  CHECK(answer["usage"]["prompt_tokens"] == n_tokens(rig, prompt) + 1);
}
