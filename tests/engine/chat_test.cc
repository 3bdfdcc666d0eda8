#include "src/engine/chat.h"

#include <doctest/doctest.h>

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
