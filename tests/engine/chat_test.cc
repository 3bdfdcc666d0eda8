#include "src/engine/chat.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "src/engine/chat_reasoning.h"
#include "src/engine/chat_template.h"
#include "src/engine/text_output.h"
#include "src/engine/utf8.h"

using engine::ChatEnd;
using engine::ChatTemplate;
using engine::TextOutput;

namespace {

// With a vocabulary that has no BOS.
std::string prompt(const ChatTemplate& chat, std::vector<engine::ChatMessage> messages,
                   ChatEnd end = ChatEnd::kOpened, bool thinking = true) {
  return chat.render(std::move(messages), end, thinking, {});
}

const engine::ChatFamily& family(const char* name) {
  const engine::ChatFamily* found = engine::find_chat_family(name);
  REQUIRE_MESSAGE(found != nullptr, name);
  return *found;
}

}  // namespace

TEST_CASE("ChatML renders as llama-server's /apply-template") {
  const ChatTemplate chatml;
  CHECK(chatml.warning().empty());
  CHECK(prompt(chatml, {{"system", "S"}, {"user", "Hi"}}) ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  CHECK(prompt(chatml, {{"user", "Hi"}, {"assistant", "Well"}}, ChatEnd::kContinued) ==
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell");
  CHECK(prompt(chatml, {{"user", "Hi"}}, ChatEnd::kClosed) == "<|im_start|>user\nHi<|im_end|>\n");
  CHECK(ChatTemplate::from_text("{{ '<|im_start|>' + m.role }}").warning().empty());
  const ChatTemplate unknown = ChatTemplate::from_text("[INST] {{ prompt }}");
  CHECK(unknown.family().name == "chatml");
  CHECK(unknown.warning().find("not known") != std::string::npos);
}

namespace {

struct Expected {
  const char *name, *template_part;  // what is characteristic of the template's text
  const char *with_system, *two_rounds;
  const char* answer;  // between the question "a" and an answer "Well, " that is to be continued
};

// What the models' own templates give for [system S, user Q] and [user a, assistant b, user c], BOS left out.
// The expected texts were taken by hand from POST /apply-template of llama-server (build b10515) with whole
// templates. What is kept of those here is only the marks they are recognised by: their text is not ours.
const Expected kExpected[] = {
    {"minimax-m2", "{{- ']~!b[' ~ ']~b]system' ~ '\\n' }}",
     "]~!b[]~b]system\nS[e~[\n]~b]user\nQ[e~[\n]~b]ai\n<think>\n",
     "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n]~b]user\na[e~[\n]~b]ai\nb[e~[\n]~b]user\nc[e~[\n"
     "]~b]ai\n<think>\n",
     "[e~[\n]~b]ai\n<think>\n\n</think>\n\n"},
    {"qwen3", "<|im_start|> multi_step_tool enable_thinking is false",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
    {"qwen2.5", "'<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.'",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_end|>\n<|im_start|>assistant\n"},
    {"llama-3.1", "<|start_header_id|>system<|end_header_id|> Cutting Knowledge Date: December 2023 | trim",
     "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 "
     "Jul "
     "2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 "
     "Jul "
     "2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>"
     "\n\nc"
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"llama-3", "'<|start_header_id|>' + message['role'] | trim",
     "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ"
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
     "\n\nb"
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"gemma", "'<start_of_turn>' + role + content | trim",
     "<start_of_turn>user\nS\nQ<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc"
     "<end_of_turn>\n<start_of_turn>model\n",
     "<end_of_turn>\n<start_of_turn>model\n"},
    {"deepseek-r1", "{{'<｜Assistant｜><think>\\n'}}", "S<｜User｜>Q<｜Assistant｜><think>\n",
     "<｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>\n",
     "<｜Assistant｜><think></think>"},
    {"deepseek-v3.1-llama.cpp", "{{'<｜Assistant｜>'}} {{'<think></think>'}}",
     "S<｜User｜>Q<｜Assistant｜><think>",
     "<｜User｜>a<｜Assistant｜><think></think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>",
     "<｜Assistant｜><think></think>"},
    {"deepseek-v3.1", "{{'<｜Assistant｜>'}} {%- if not thinking %}{{'</think>'}}{% else %}{{'<think>'}}",
     "S<｜User｜>Q<｜Assistant｜><think>",
     "<｜User｜>a<｜Assistant｜></think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>",
     "<｜Assistant｜></think>"},
    {"mistral-nemo", "{{- \"[INST]\" + message[\"content\"]", "[INST]S\n\nQ[/INST]",
     "[INST]a[/INST]b</s>[INST]c[/INST]", "[/INST]"},
    {"mistral-v7-tekken", "'[SYSTEM_PROMPT]' '[INST]'", "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]Q[/INST]",
     "[INST]a[/INST]b</s>[INST]c[/INST]", "[/INST]"},
    {"mistral-v7", "'[SYSTEM_PROMPT] ' '[INST] '", "[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] Q[/INST]",
     "[INST] a[/INST] b</s>[INST] c[/INST]", "[/INST]"},
    {"mistral-v3", "\"[INST] \" + content + \"[/INST]\" {{ \" \" + content|trim }}", "[INST] S\n\nQ[/INST]",
     "[INST] a[/INST] b</s>[INST] c[/INST]", "[/INST]"},
    {"qwq", "content.split('</think>')[-1] '<|im_start|>assistant\\n<think>\\n'",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\n",
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n<think>\n",
     "<|im_end|>\n<|im_start|>assistant\n<think></think>"},
    {"qwen3-coder", "<|im_start|> You are Qwen, a helpful AI assistant that can interact with a computer",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n",
     "<|im_end|>\n<|im_start|>assistant\n"},
    {"gemma-3", "'<start_of_turn>' first_user_prefix content | trim",
     "<start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc"
     "<end_of_turn>\n<start_of_turn>model\n",
     "<end_of_turn>\n<start_of_turn>model\n"},
    {"deepseek-v2", "{{ 'User: ' + content }} {{ 'Assistant: ' + content + eos_token }}",
     "S\n\nUser: Q\n\nAssistant:", "User: a\n\nAssistant: b<｜end▁of▁sentence｜>User: c\n\nAssistant:",
     "\n\nAssistant:"},
};

}  // namespace

TEST_CASE("each family is recognised by its marks and renders the prompts recorded for it") {
  for (const Expected& e : kExpected) {
    const ChatTemplate chat = ChatTemplate::from_text(e.template_part);
    CHECK_MESSAGE(chat.warning() == "", e.name);
    CHECK_MESSAGE(chat.family().name == e.name, e.name);
    CHECK_MESSAGE(prompt(chat, {{"system", "S"}, {"user", "Q"}}) == e.with_system, e.name);
    CHECK_MESSAGE(prompt(chat, {{"user", "a"}, {"assistant", "b"}, {"user", "c"}}) == e.two_rounds, e.name);
    // An answer to be continued ends the prompt as it stands.
    const std::string continued = prompt(chat, {{"user", "a"}, {"assistant", "Well, "}}, ChatEnd::kContinued);
    CHECK_MESSAGE(continued.ends_with("a" + std::string(e.answer) + "Well, "), e.name);
    CHECK_MESSAGE(prompt(chat, {}).size() < 200, e.name);
    CHECK_MESSAGE(prompt(chat, {}, ChatEnd::kContinued).size() < 200, e.name);
  }
}

TEST_CASE("blanks around messages go where the family's template trims them") {
  const std::vector<engine::ChatMessage> talk = {{"user", " a "}, {"assistant", " b\n"}, {"user", "\nc "}};
  CHECK(family("llama-3").render(talk, ChatEnd::kClosed).find("\n\nb<|eot_id|>") != std::string::npos);
  CHECK(family("chatml").render(talk, ChatEnd::kClosed).find("assistant\n b\n<|im_end|>") !=
        std::string::npos);
  CHECK(family("mistral-v3").render(talk, ChatEnd::kClosed) == "[INST]  a [/INST] b</s>[INST] \nc [/INST]");
  CHECK(family("mistral-nemo").render(talk, ChatEnd::kClosed) == "[INST] a [/INST] b\n</s>[INST]\nc [/INST]");
}

TEST_CASE("a look-alike of a known family is told from it, with the reason") {
  struct Row {
    const char *text, *family, *reason;
  };
  for (const Row& row : {
           Row{"{{ '<|im_start|>system\\nYou are a model of ours.' }}", "chatml", "'You are'"},
           Row{"<|im_start|> {% if enable_thinking %}<think>{% endif %}", "chatml", "'<think>'"},
           Row{"'<|im_start|>' + role + '<|im_sep|>'", "chatml", "'<|im_sep|>'"},
           Row{"{% macro show(m) %} <|im_start|> multi_step_tool enable_thinking", "qwen3", "'macro '"},
           Row{"multi_step_tool <|im_start|>assistant\\n<think>\\n {{ content | trim }}", "qwen3-thinking",
               "'trim'"},
           Row{"]~b]ai <mm:think>", "minimax-m2", "'<mm:think>'"},
           Row{"'<|start_header_id|>' + role + content", "llama-3", "no 'trim'"},
           Row{"<|start_header_id|> Cutting Knowledge Date {{ strftime_now() }} | trim", "llama-3.1", "date"},
           Row{"'[SYSTEM_PROMPT]' '[INST]' You are a small model", "mistral-v7-tekken", "'You are'"},
           Row{"<｜Assistant｜> dsml_token", "deepseek-v3", "'dsml'"},
           Row{"<｜Assistant｜> {% if not thinking %}{{ x }}", "deepseek-v3", "'thinking'"},
           Row{"'<｜Assistant｜></think>'", "deepseek-v3", "'</think>'"},
       }) {
    const ChatTemplate chat = ChatTemplate::from_text(row.text);
    CHECK_MESSAGE(chat.family().name == row.family, row.text);
    CHECK_MESSAGE(chat.warning().find("exactness is not assured") != std::string::npos, row.text);
    CHECK_MESSAGE(chat.warning().find(row.reason) != std::string::npos, chat.warning());
    CHECK_MESSAGE(chat.warning().find(row.family) != std::string::npos, chat.warning());
  }
}

TEST_CASE("a template's own system message stands where none is given") {
  const ChatTemplate chat = ChatTemplate::from_text("]~b]system {%- set model_identity = \"I am M.\" -%}");
  CHECK(prompt(chat, {{"user", "Q"}}).starts_with("]~!b[]~b]system\nI am M.[e~[\n"));
  CHECK(prompt(chat, {{"system", ""}, {"user", "Q"}}).starts_with("]~!b[]~b]system\nI am M.[e~[\n]~b]user"));
  CHECK(prompt(chat, {{"system", "S"}, {"user", "Q"}}).starts_with("]~!b[]~b]system\nS[e~[\n"));
  // Text that ends before the quote does.
  CHECK(prompt(ChatTemplate::from_text("]~b] model_identity = \"I am"), {{"user", "Q"}})
            .starts_with("]~!b[]~b]system\nYou are a helpful assistant.[e~["));
}

TEST_CASE("one BOS where the template prints it or the vocabulary adds it, and none else") {
  const ChatTemplate prints = ChatTemplate::from_text("{{ bos_token }} '<|im_start|>' + role");
  const ChatTemplate silent = ChatTemplate::from_text("'<|im_start|>' + role");
  const ChatTemplate spelled = ChatTemplate::from_text("]~b]system");  // begins with "]~!b["
  auto begins = [](const ChatTemplate& chat, const ChatTemplate::Bos& bos) {
    const std::string text = chat.render({{"user", "Q"}}, ChatEnd::kOpened, true, bos);
    std::string tokens = bos.added ? "+" : "";  // what the tokenizer puts first
    for (std::string_view rest = text; !bos.text.empty() && rest.starts_with(bos.text);
         rest.remove_prefix(bos.text.size())) {
      tokens += "b";
    }
    return tokens;
  };
  CHECK(begins(prints, {"<s>", true}) == "+");
  CHECK(begins(prints, {"<s>", false}) == "b");
  CHECK(begins(silent, {"<s>", true}) == "+");
  CHECK(begins(silent, {"<s>", false}) == "");
  CHECK(begins(prints, {"", false}) == "");
  CHECK(begins(spelled, {"]~!b[", true}) == "+");
  CHECK(begins(spelled, {"]~!b[", false}) == "b");
}

TEST_CASE("--chat-template: a name, or a template of a known family") {
  CHECK(ChatTemplate::from_option("chatml")->family().name == "chatml");
  CHECK(ChatTemplate::from_option("qwen3")->family().name == "qwen3");
  CHECK(ChatTemplate::from_option("mistral-v3-tekken")->family().name == "mistral-nemo");
  CHECK(ChatTemplate::from_option("{{ '<|start_header_id|>' + role | trim }}")->family().name == "llama-3");
  auto misspelled = ChatTemplate::from_option("quen3");
  REQUIRE_FALSE(misspelled.ok());
  CHECK(misspelled.failure().to_string().find("did you mean qwen3?") != std::string::npos);
  auto foreign = ChatTemplate::from_option("{{ messages }}");
  REQUIRE_FALSE(foreign.ok());
  CHECK(foreign.failure().to_string().find("name one of minimax-m2,") != std::string::npos);
  auto unlike_any = ChatTemplate::from_option("zephyr");
  REQUIRE_FALSE(unlike_any.ok());
  for (const auto& failed : {misspelled.failure(), foreign.failure(), unlike_any.failure()}) {
    for (const engine::ChatFamily& f : engine::chat_families()) {
      CHECK_MESSAGE(failed.next.find(f.name) != std::string::npos, f.name);
    }
    for (const char* theirs : {"llama3", "deepseek2", "deepseek3", "mistral-v3-tekken"}) {
      CHECK_MESSAGE(failed.next.find(theirs) != std::string::npos, theirs);
    }
  }
}

TEST_CASE("earlier reasoning leaves the prompt, and thinking can be switched off") {
  const std::vector<engine::ChatMessage> talk = {
      {"user", "a"}, {"assistant", "<think>\nhm\n</think>\n\nb"}, {"user", "c"}};
  for (const char* name : {"minimax-m2", "qwen3", "qwen3-thinking", "qwq", "deepseek-r1", "deepseek-v3.1",
                           "deepseek-v3.1-llama.cpp", "deepseek-v3"}) {
    const engine::ChatFamily& f = family(name);
    CHECK_MESSAGE(f.render(talk, ChatEnd::kOpened).find("hm") == std::string::npos, name);
    CHECK(f.reasons());
    CHECK_FALSE(f.opens_reasoning(ChatEnd::kOpened, false));
    CHECK_FALSE(f.opens_reasoning(ChatEnd::kContinued));
    CHECK_FALSE(f.opens_reasoning(ChatEnd::kClosed));
    CHECK(f.end_of_thinking.find("</think>") != std::string_view::npos);
  }
  for (const char* name : {"minimax-m2", "qwen3-thinking", "qwq", "deepseek-r1", "deepseek-v3.1"}) {
    CHECK_MESSAGE(family(name).opens_reasoning(ChatEnd::kOpened), name);
    CHECK(family(name).opened_thinking(ChatEnd::kOpened).starts_with("<think>"));
  }
  CHECK(
      family("qwen3").render(talk, ChatEnd::kOpened, false).ends_with("assistant\n<think>\n\n</think>\n\n"));
  CHECK(family("qwq").render(talk, ChatEnd::kOpened, false).ends_with("assistant\n<think>\n</think>"));
  CHECK(family("deepseek-v3.1").render(talk, ChatEnd::kOpened, false).ends_with("<｜Assistant｜></think>"));
  CHECK(family("deepseek-v3.1-llama.cpp")
            .render(talk, ChatEnd::kOpened, false)
            .ends_with("<｜Assistant｜><think></think>"));
  CHECK(family("qwen3").opened_thinking(ChatEnd::kOpened, false) == "<think>\n\n</think>\n\n");
  CHECK_FALSE(family("chatml").opens_reasoning(ChatEnd::kOpened));
  CHECK_FALSE(family("llama-3").reasons());
}

TEST_CASE("where thinking is ended without the template's word, a note says so") {
  for (const engine::ChatFamily& f : engine::chat_families()) {
    const std::string name(f.name);
    const std::string note = ChatTemplate::from_option(name)->note();
    // A template that always opens the reasoning has no switch; DeepSeek V3.1's has one.
    const bool ours = f.opens_reasoning(ChatEnd::kOpened) && !name.starts_with("deepseek-v3.1");
    CHECK_MESSAGE((note.find("</think>") != std::string::npos) == ours, name);
  }
}

TEST_CASE("reasoning is split off however the text is cut") {
  struct Row {
    bool inside;
    const char *text, *reasoning, *content;
  };
  for (const Row& row :
       {Row{false, "<think>\nhm, so\n</think>\n\nYes.\n", "hm, so", "Yes.\n"},
        Row{true, "hm </thin k> so\n\n</think>\n\nYes.", "hm </thin k> so", "Yes."},
        Row{true, "cut off\n</thi", "cut off", ""}, Row{true, "cut off <", "cut off", ""},
        Row{false, " <thinker>", "", " <thinker>"}, Row{false, "<", "", "<"},
        Row{false, "Yes <think>no</think>", "", "Yes <think>no</think>"}, Row{false, "  ", "", "  "},
        Row{false, "<thi", "", ""}, Row{true, "\n</think>a", "", "a"}, Row{true, "", "", ""}}) {
    const std::string text = row.text;
    for (size_t size = 1; size <= text.size() + 1; ++size) {
      engine::ReasoningSplitter splitter(row.inside);
      std::string reasoning, content;
      auto take = [&](const engine::ReasoningSplitter::Parts& parts) {
        reasoning += parts.reasoning;
        content += parts.content;
      };
      for (size_t at = 0; at < text.size(); at += size) {
        take(splitter.push(std::string_view(text).substr(at, size)));
      }
      take(splitter.flush());
      CHECK_MESSAGE(reasoning == row.reasoning, text << " in pieces of " << size);
      CHECK_MESSAGE(content == row.content, text << " in pieces of " << size);
    }
  }
}

TEST_CASE("a character in pieces is sent whole") {
  TextOutput out({});
  auto step = out.push("\xE2\x82");
  CHECK(step.text.empty());
  CHECK(step.mid_character);
  step = out.push("\xAC!");
  CHECK(step.text == "\xE2\x82\xAC!");
  CHECK_FALSE(step.mid_character);
  CHECK(out.push("a\xF0").text == "a");
  CHECK(out.flush() == "\xF0");  // the JSON writer replaces it
  CHECK(out.text() == "\xE2\x82\xAC!a\xF0");
  CHECK(out.push("\xFF").text == "\xFF");  // can never become a character: no reason to wait
}

TEST_CASE("a stop string is found across pieces and nothing of it leaks") {
  TextOutput out({"END", "", "STOP"});
  CHECK(out.push("one E").text == "one ");
  CHECK(out.push("N").text.empty());
  auto step = out.push("D two");
  CHECK(step.stopped);
  CHECK(step.text.empty());
  CHECK(out.text() == "one ");
  CHECK(out.stopping_word() == "END");
}

TEST_CASE("what is to be said whole comes whole or not at all") {
  TextOutput whole({});
  CHECK(whole.push("hm").text == "hm");
  CHECK(whole.push("\n</th", true).text.empty());
  CHECK(whole.push("ink", true).text.empty());
  CHECK(whole.push(">\n\n").text == "\n</think>\n\n");
  CHECK(whole.flush().empty());
  CHECK(whole.text() == "hm\n</think>\n\n");
  TextOutput cut({"E", "nope"});
  CHECK(cut.push("hm no").text == "hm ");  // held for its own reason
  CHECK(cut.push("\n</th", true).text == "no");
  CHECK(cut.push("ink", true).text.empty());
  CHECK(cut.flush().empty());
  CHECK(cut.text() == "hm no");
  TextOutput stopped({"ink"});
  CHECK(stopped.push("hm").text == "hm");
  CHECK(stopped.push("\n</th", true).text.empty());
  const TextOutput::Step step = stopped.push("ink", true);
  CHECK(step.stopped);
  CHECK(step.text.empty());
  CHECK(stopped.text() == "hm");
}

TEST_CASE("what only looked like a stop string comes out later, or at the end") {
  TextOutput out({"END"});
  CHECK(out.push("xEN").text == "x");
  CHECK(out.push("E").text == "EN");
  CHECK(out.push("N").text.empty());
  CHECK(out.flush() == "EN");
  CHECK(out.text() == "xENEN");
}

TEST_CASE("the earliest of several stop strings in one piece wins") {
  TextOutput out({"cc", "bb"});
  auto step = out.push("aa bb cc");
  CHECK(step.stopped);
  CHECK(step.text == "aa ");
  CHECK(out.stopping_word() == "bb");
}

TEST_CASE("UTF-8 validity") {
  CHECK(engine::is_valid_utf8("a\xC3\xB6\xF0\x9F\x98\x80"));
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC3", "\xFF"}) {
    CHECK_FALSE(engine::is_valid_utf8(bad));
  }
  CHECK(engine::incomplete_utf8_tail("a\xF0\x9F\x98") == 3);
  CHECK(engine::incomplete_utf8_tail("a\x98") == 0);
  CHECK(engine::incomplete_utf8_tail("\xC3\xB6") == 0);
}
