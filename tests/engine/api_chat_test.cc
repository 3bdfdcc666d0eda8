// Chat requests: what they ask for, and what is refused.

#include <doctest/doctest.h>

#include "src/engine/api.h"
#include "tests/engine/vocab_fixture.h"

using base::Json;
using engine::ChatEnd;
using engine::ChatRequest;

namespace {

ChatRequest chat(const std::string& text, const engine::ReasoningOptions& defaults = {}) {
  ChatRequest out;
  const auto error =
      engine::parse_chat(Json::parse(text), defaults, *engine::find_chat_family("chatml"), out);
  REQUIRE_MESSAGE(!error.has_value(), (error ? error->message : ""));
  return out;
}

// A request of one question with more fields.
std::string question(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "Q"}])" + (fields.empty() ? "" : ", " + fields) + "}";
}

std::string refusal(const std::string& text, const char* family = "chatml") {
  ChatRequest out;
  const auto error = engine::parse_chat(Json::parse(text), {}, *engine::find_chat_family(family), out);
  CHECK_MESSAGE((!error || error->code == 400), text);
  return error ? error->message : "";
}

}  // namespace

TEST_CASE("messages: parts, null content, developers, and an assistant's turn to continue") {
  const ChatRequest talk = chat(R"({"messages": [{"role": "developer", "content": "S"},
      {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
      {"role": "assistant", "content": null}]})");
  REQUIRE(talk.messages.size() == 3);
  CHECK(talk.messages[0].role == "system");
  CHECK(talk.messages[1].content == "x\ny");
  CHECK(talk.messages[2].content.empty());
  CHECK(talk.end == ChatEnd::kContinued);
  CHECK(chat(question("")).end == ChatEnd::kOpened);
  CHECK(chat(question(R"("add_generation_prompt": false)")).end == ChatEnd::kClosed);
  const std::string answered = R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant",
      "content": "b"}], )";
  CHECK(chat(answered + R"("add_generation_prompt": false, "continue_final_message": true})").end ==
        ChatEnd::kContinued);
  CHECK(chat(answered + R"("continue_final_message": false})").end == ChatEnd::kContinued);
  CHECK(refusal(answered + R"("continue_final_message": true})") ==
        "Cannot set both add_generation_prompt and continue_final_message to true.");
}

TEST_CASE("conversations that make no sense are refused, each with its reason") {
  CHECK(refusal("{}") == "'messages' is required");
  CHECK(refusal(R"({"messages": "x"})") == "Expected 'messages' to be an array");
  CHECK(refusal(R"({"messages": null})") == "Expected 'messages' to be an array");
  CHECK(refusal(R"({"messages": []})") == "'messages' must not be empty");
  CHECK(refusal(R"({"messages": [1]})").find("must be an object") != std::string::npos);
  CHECK(refusal(R"({"messages": [{"content": "x"}]})").find("with a 'role'") != std::string::npos);
  CHECK(refusal(R"({"messages": [{"role": "user"}]})") ==
        "All non-assistant messages must contain 'content'");
  CHECK(refusal(R"({"messages": [{"role": "user", "content": 5}]})") ==
        "Expected 'content' to be a string or an array");
  CHECK(refusal(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})")
            .find("only 'text' is supported") != std::string::npos);
  CHECK(refusal(R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}]})")
            .find("'tool_calls' are not supported") != std::string::npos);
  CHECK(
      refusal(
          R"({"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]})") ==
      "Cannot have 2 or more assistant messages at the end of the list.");
  CHECK(refusal(question(R"("add_generation_prompt": "no")")).find("type must be boolean") !=
        std::string::npos);
  CHECK(refusal(question(R"("continue_final_message": true, "add_generation_prompt": false)"))
            .find("needs an assistant's message") != std::string::npos);
  CHECK(refusal(question(R"("continue_final_message": "reasoning_content")")).find("not supported") !=
        std::string::npos);
  CHECK(refusal(question(R"("continue_final_message": 1)")).find("must be true, false") != std::string::npos);
}

TEST_CASE("tool calls are refused, and so are roles that no template of the family prints") {
  const std::string asked = R"({"messages": [{"role": "user", "content": "6 * 7?"}, )";
  const std::string call =
      R"([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}])";
  for (const char* key : {"tool_calls", "function_call"}) {
    for (const char* content : {R"("Let me look.")", "\"\"", "null", R"([{"type": "text", "text": "x"}])"}) {
      const std::string message = R"({"role": "assistant", "content": )" + std::string(content);
      CHECK(refusal(asked + message + ", \"" + key + "\": " + call + "}]}").find(key) != std::string::npos);
      CHECK(refusal(asked + message + ", \"" + key + "\": []}]}").empty());
      CHECK(refusal(asked + message + ", \"" + key + "\": null}]}").empty());
    }
  }
  const std::string told = asked + R"({"role": "tool", "content": "42"}]})";
  const std::string late =
      asked + R"({"role": "system", "content": "S"}, {"role": "user", "content": "b"}]})";
  const std::string first =
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}]})";
  for (const engine::ChatFamily& family : engine::chat_families()) {
    // What is taken is printed, wherever it stands.
    const std::string name(family.name);
    for (const std::string& conversation : {told, late, first}) {
      if (refusal(conversation, name.c_str()).empty()) {
        ChatRequest out;
        REQUIRE_FALSE(engine::parse_chat(Json::parse(conversation), {}, family, out));
        const std::string prompt = family.render(out.messages, out.end);
        for (const engine::ChatMessage& message : out.messages) {
          CHECK_MESSAGE(prompt.find(message.content) != std::string::npos, name);
          // As what it is: not as an answer, which would end with the token that ends those.
          CHECK_MESSAGE(prompt.find(message.content + "</s>") == std::string::npos, name);
        }
      }
    }
    CHECK_MESSAGE(refusal(first, name.c_str()).empty(), name);
    const bool any = name == "chatml" || name == "qwen2" || name == "llama-3";
    CHECK_MESSAGE(refusal(told, name.c_str()).empty() == any, name);
  }
  CHECK(refusal(told, "deepseek-v3").find("role 'tool' are not supported") != std::string::npos);
  CHECK(refusal(late, "mistral-v3").find("a system message must be the first") != std::string::npos);
  CHECK(refusal(late, "minimax-m2").find("a system message must be the first") != std::string::npos);
  CHECK(refusal(late, "qwen3").empty());
}

TEST_CASE("what is said before thinking is cut short has a limit") {
  const auto asked = [](size_t n) {
    return question(R"("reasoning_budget_message": ")" + std::string(n, 'x') + "\"");
  };
  CHECK(refusal(asked(65536)).empty());
  CHECK(refusal(asked(65537)) == "Field 'reasoning_budget_message': at most 65536 bytes");
}

TEST_CASE("thinking: a request's word counts over the server's") {
  engine::ReasoningOptions server;
  server.budget = 7;
  server.budget_message = "Enough.";
  CHECK(chat(question(""), server).reasoning.budget == 7);
  CHECK(chat(question(""), server).reasoning.budget_message == "Enough.");
  CHECK(chat(question(R"("reasoning_budget_tokens": null)"), server).reasoning.budget == 7);
  CHECK(chat(question(R"("reasoning_budget_tokens": -1)"), server).reasoning.budget == -1);
  CHECK(chat(question(R"("thinking_budget_tokens": -1)"), server).reasoning.budget == -1);
  CHECK(chat(question(R"("reasoning_budget_tokens": 0)"), server).reasoning.budget == 0);
  CHECK(chat(question(R"("thinking_budget_tokens": 3)"), server).reasoning.budget == 3);
  CHECK(chat(question(R"("thinking_budget_tokens": 3, "reasoning_budget_tokens": 4)")).reasoning.budget == 4);
  CHECK(chat(question(R"("reasoning_budget_message": "Stop.")"), server).reasoning.budget_message == "Stop.");

  CHECK(chat(question("")).reasoning.thinking);
  CHECK_FALSE(chat(question(R"("chat_template_kwargs": {"enable_thinking": false})")).reasoning.thinking);
  CHECK_FALSE(chat(question(R"("reasoning_effort": "none")")).reasoning.thinking);
  CHECK(chat(question(R"("reasoning_effort": "high")")).reasoning.thinking);
  CHECK(chat(question(R"("chat_template_kwargs": {"other": null})")).reasoning.thinking);
  server.thinking = false;
  CHECK_FALSE(chat(question(""), server).reasoning.thinking);
  CHECK(chat(question(R"("chat_template_kwargs": {"enable_thinking": true})"), server).reasoning.thinking);

  CHECK(chat(question("")).reasoning.split);
  CHECK_FALSE(chat(question(R"("reasoning_format": "none")")).reasoning.split);
  server.split = false;
  CHECK_FALSE(chat(question(""), server).reasoning.split);
  CHECK(chat(question(R"("reasoning_format": "deepseek")"), server).reasoning.split);
}

TEST_CASE("thinking asked for in a wrong way is refused") {
  CHECK(refusal(question(R"("reasoning_format": "x")")).find("Unknown reasoning format: x") == 0);
  CHECK(refusal(question(R"("reasoning_format": 1)")).find("type must be string") != std::string::npos);
  CHECK(refusal(question(R"("reasoning_budget_tokens": -7)")) ==
        "Field 'reasoning_budget_tokens': Value must be between -1 <= value <= 2147483647, but got -7");
  CHECK(refusal(question(R"("reasoning_budget_tokens": 1e300)")).find("Value must be between") !=
        std::string::npos);
  CHECK(refusal(question(R"("reasoning_budget_tokens": "x")")).find("type must be number") !=
        std::string::npos);
  CHECK(refusal(question(R"("chat_template_kwargs": 3)")).find("type must be object") != std::string::npos);
  CHECK(refusal(question(R"("chat_template_kwargs": {"enable_thinking": "no"})")) ==
        "invalid type for \"enable_thinking\" (expected boolean, got string)");
  CHECK(refusal(question(R"("chat_template_kwargs": {"enable_thinking": true, "other": 1})"))
            .find("'other' is taken by no template here") != std::string::npos);
  CHECK(refusal(question(R"("reasoning_effort": 1)")).find("type must be string") != std::string::npos);
}

TEST_CASE("a budget reaches the engine only where the family thinks, with its own ending") {
  const engine::Tokenizer tokenizer = test::small_bpe_vocabulary();
  const engine::ChatFamily& thinker = *engine::find_chat_family("minimax-m2");
  const engine::ChatFamily& other = *engine::find_chat_family("llama-3");
  const ChatRequest asked =
      chat(question(R"("reasoning_budget_tokens": 5, "reasoning_budget_message": "ab")"));
  const engine::ReasoningLimit limit = engine::reasoning_limit(asked, thinker, tokenizer);
  CHECK(limit.n_max == 5);
  CHECK(limit.inside);
  CHECK(tokenizer.decode(limit.ending, true) == "ab\n</think>\n\n");
  CHECK(engine::reasoning_limit(asked, other, tokenizer).n_max == -1);
  CHECK(engine::reasoning_limit(chat(question("")), thinker, tokenizer).n_max == -1);
  const ChatRequest off = chat(question(R"("chat_template_kwargs": {"enable_thinking": false})"));
  CHECK(engine::reasoning_limit(off, thinker, tokenizer).n_max == 0);
  CHECK_FALSE(engine::reasoning_limit(off, thinker, tokenizer).inside);  // the prompt has ended it
}
