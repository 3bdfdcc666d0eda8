#include "src/engine/chat.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "src/engine/chat_reasoning.h"
#include "src/engine/text_output.h"
#include "src/engine/utf8.h"

using engine::TextOutput;

TEST_CASE("ChatML renders as llama-server's /apply-template") {
  bool known = false;
  const engine::ChatFamily& family = engine::chat_family("", &known);
  CHECK(known);
  CHECK(family.render({{"system", "S"}, {"user", "Hi"}}, false) ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  CHECK(family.render({{"user", "Hi"}, {"assistant", "Well"}}, true) ==
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell");
  engine::chat_family("{{ '<|im_start|>' + m.role }}", &known);
  CHECK(known);
  CHECK(engine::chat_family("[INST] {{ prompt }}", &known).name == "chatml");
  CHECK_FALSE(known);
}

namespace {

struct Expected {
  const char *name, *template_part;  // what is characteristic of the template's text
  const char *with_system, *two_rounds;
};

// What the models' own templates give for [system S, user Q] and [user a, assistant b, user c], BOS left out.
const Expected kExpected[] = {
    {"minimax-m2", "{{- ']~!b[' ~ ']~b]system' ~ '\\n' }}",
     "]~!b[]~b]system\nS[e~[\n]~b]user\nQ[e~[\n]~b]ai\n<think>\n",
     "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n]~b]user\na[e~[\n]~b]ai\nb[e~[\n]~b]user\nc[e~[\n"
     "]~b]ai\n<think>\n"},
    {"qwen3", "<|im_start|> multi_step_tool enable_thinking is false",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"qwen2.5", "'<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.'",
     "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
     "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"llama-3.1", "<|start_header_id|>system<|end_header_id|> Cutting Knowledge Date: December 2023",
     "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 "
     "Jul "
     "2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 "
     "Jul "
     "2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>"
     "\n\nc"
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"llama-3", "'<|start_header_id|>' + message['role']",
     "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ"
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
     "\n\nb"
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"gemma", "'<start_of_turn>' + role", "<start_of_turn>user\nS\nQ<end_of_turn>\n<start_of_turn>model\n",
     "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc"
     "<end_of_turn>\n<start_of_turn>model\n"},
    {"deepseek-r1", "{{'<｜Assistant｜><think>\\n'}}", "S<｜User｜>Q<｜Assistant｜><think>\n",
     "<｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>\n"},
    {"deepseek-v3.1", "{{'<｜Assistant｜>'}} {{'<think></think>'}}", "S<｜User｜>Q<｜Assistant｜><think>",
     "<｜User｜>a<｜Assistant｜><think></think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>"},
    {"mistral-nemo", "{{- \"[INST]\" + message[\"content\"]", "[INST]S\n\nQ[/INST]",
     "[INST]a[/INST]b</s>[INST]c[/INST]"},
    {"mistral-v7", "'[SYSTEM_PROMPT]' '[INST]'", "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]Q[/INST]",
     "[INST]a[/INST]b</s>[INST]c[/INST]"},
};

}  // namespace

TEST_CASE("each family renders as its models' own templates") {
  for (const Expected& e : kExpected) {
    bool known = false;
    const engine::ChatFamily& family = engine::chat_family(e.template_part, &known);
    CHECK(known);
    CHECK_MESSAGE(family.name == e.name, e.name);
    CHECK_MESSAGE(family.render({{"system", "S"}, {"user", "Q"}}, false) == e.with_system, e.name);
    CHECK_MESSAGE(family.render({{"user", "a"}, {"assistant", "b"}, {"user", "c"}}, false) == e.two_rounds,
                  e.name);
    // An answer to be continued ends the prompt as it stands.
    CHECK_MESSAGE(family.render({{"user", "a"}, {"assistant", "Well, "}}, true).ends_with("Well, "), e.name);
    CHECK_MESSAGE(family.render({}, false).size() < 200, e.name);
  }
}

TEST_CASE("earlier reasoning leaves the prompt, and thinking can be switched off") {
  bool known = false;
  const std::vector<engine::ChatMessage> talk = {
      {"user", "a"}, {"assistant", "<think>\nhm\n</think>\n\nb"}, {"user", "c"}};
  for (const char* part : {"]~b]system", "multi_step_tool enable_thinking", "<｜Assistant｜><think>\\n"}) {
    const engine::ChatFamily& family = engine::chat_family(part, &known);
    CHECK_MESSAGE(family.render(talk, false).find("hm") == std::string::npos, family.name);
    CHECK(family.reasons);
    CHECK(family.render(talk, false, false).find("</think>") != std::string::npos);
    CHECK_FALSE(family.opens_reasoning(false, false));
    CHECK_FALSE(family.opens_reasoning(true));
  }
  CHECK(engine::chat_family("]~b]system", &known).opens_reasoning(false));
  CHECK_FALSE(engine::chat_family("<|im_start|>", &known).opens_reasoning(false));
}

TEST_CASE("reasoning is split off however the text is cut") {
  struct Row {
    bool inside;
    const char *text, *reasoning, *content;
  };
  for (const Row& row :
       {Row{false, "<think>\nhm, so\n</think>\n\nYes.\n", "hm, so", "Yes.\n"},
        Row{true, "hm </thin k> so\n\n</think>\n\nYes.", "hm </thin k> so", "Yes."},
        Row{true, "cut off </thi", "cut off </thi", ""}, Row{false, " <thinker>", "", " <thinker>"},
        Row{false, "Yes <think>no</think>", "", "Yes <think>no</think>"}, Row{false, "  ", "", "  "},
        Row{false, "<thi", "", "<thi"}, Row{true, "\n</think>a", "", "a"}, Row{true, "", "", ""}}) {
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
