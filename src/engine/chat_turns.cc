#include "src/engine/chat_turns.h"

#include <algorithm>
#include <string_view>

namespace engine {
namespace {

using Messages = std::vector<ChatMessage>;

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";
// DeepSeek's tags are spelled with U+FF5C and U+2581. In parts, or a hexadecimal escape would go on.
#define DS_USER "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"
#define DS_ASSISTANT \
  "<\xEF\xBD\x9C"    \
  "Assistant\xEF\xBD\x9C>"
#define DS_END    \
  "<\xEF\xBD\x9C" \
  "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"

std::string_view stripped(std::string_view text, std::string_view what, bool left = true, bool right = true) {
  size_t begin = left ? std::min(text.find_first_not_of(what), text.size()) : 0;
  size_t end = right ? text.find_last_not_of(what) + 1 : text.size();  // npos + 1 is 0
  return text.substr(begin, std::max(begin, end) - begin);
}

std::string_view trimmed(std::string_view text) {
  return stripped(text, " \t\r\n\f\v");
}

// What follows the last </think>: earlier reasoning is not shown to the model again.
std::string_view after_thinking(std::string_view text) {
  size_t end = text.rfind(kEndThink);
  return end == std::string_view::npos ? text : text.substr(end + kEndThink.size());
}

std::string_view thinking_in(std::string_view text) {
  std::string_view before = text.substr(0, std::min(text.find(kEndThink), text.size()));
  if (before.size() == text.size()) {
    return "";
  }
  before = stripped(before, "\n", false);
  size_t start = before.rfind(kThink);
  return stripped(start == std::string_view::npos ? before : before.substr(start + kThink.size()), "\n");
}

bool begins_with_system(const Messages& messages) {
  return !messages.empty() && messages[0].role == "system";
}

// Where the last question stands; before the first message where there is none.
size_t after_last_user(const Messages& messages) {
  size_t at = messages.size();
  while (at > 0 && messages[at - 1].role != "user") {
    --at;
  }
  return at;
}

}  // namespace

void chatml_turns(const Messages& messages, std::string& out) {
  for (const ChatMessage& message : messages) {
    out += "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n";
  }
}

void qwen25_turns(const Messages& messages, std::string& out) {
  if (!begins_with_system(messages)) {
    out +=
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
        "assistant.<|im_end|>\n";
  }
  chatml_turns(messages, out);
}

void qwen2_turns(const Messages& messages, std::string& out) {
  if (!begins_with_system(messages)) {
    out += "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  }
  chatml_turns(messages, out);
}

void qwen3_turns(const Messages& messages, std::string& out) {
  // Without any question the template takes the last message for it.
  const size_t after = std::max<size_t>(after_last_user(messages), 1);
  const bool asked = after_last_user(messages) > 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    out += "<|im_start|>" + m.role + "\n";
    if (m.role != "assistant") {
      out += m.content;
    } else {
      const std::string_view thinking = thinking_in(m.content);
      const bool has = m.content.find(kEndThink) != std::string::npos;
      const std::string_view content =
          has ? stripped(after_thinking(m.content), "\n", true, false) : std::string_view(m.content);
      if (asked && i >= after && (i + 1 == messages.size() || !thinking.empty())) {
        out += "<think>\n";
        out += thinking;
        out += "\n</think>\n\n";
        out += stripped(content, "\n", true, false);
      } else {
        out += content;
      }
    }
    out += "<|im_end|>\n";
  }
}

// Earlier answers without their reasoning, the last one as it stands; other roles but system are left out.
void qwq_turns(const Messages& messages, std::string& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role != "user" && m.role != "system" && m.role != "assistant") {
      continue;
    }
    out += "<|im_start|>" + m.role + "\n";
    out += m.role == "assistant" && i + 1 < messages.size()
               ? stripped(after_thinking(m.content), "\n", true, false)
               : std::string_view(m.content);
    out += "<|im_end|>\n";
  }
}

void minimax_m2_turns(const Messages& messages, std::string& out) {
  const bool system = begins_with_system(messages);
  out += "]~!b[]~b]system\n";
  out += system && !messages[0].content.empty() ? messages[0].content : "You are a helpful assistant.";
  out += "[e~[\n";
  const size_t after = after_last_user(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == "user") {
      out += "]~b]user\n" + m.content + "[e~[\n";
    } else if (m.role == "assistant") {
      out += "]~b]ai\n";
      const bool has = m.content.find(kEndThink) != std::string::npos;
      if (has) {
        if (std::string_view thinking = thinking_in(m.content); !thinking.empty() && i >= after) {
          out += "<think>\n";
          out += thinking;
          out += "\n</think>\n\n";
        }
        out += stripped(after_thinking(m.content), "\n");
      } else {
        out += m.content;
      }
      out += "[e~[\n";
    }  // other roles: the template leaves them out
  }
}

namespace {

void llama3_turn(const ChatMessage& m, std::string& out) {
  out += "<|start_header_id|>" + m.role + "<|end_header_id|>\n\n";
  out += trimmed(m.content);
  out += "<|eot_id|>";
}

}  // namespace

void llama3_turns(const Messages& messages, std::string& out) {
  for (const ChatMessage& message : messages) {
    llama3_turn(message, out);
  }
}

void llama31_turns(const Messages& messages, std::string& out) {
  const bool system = begins_with_system(messages);
  out += "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n";
  out += "Today Date: 26 Jul 2024\n\n";
  out += system ? trimmed(messages[0].content) : "";
  out += "<|eot_id|>";
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    llama3_turn(messages[i], out);
  }
}

namespace {

// A system message stands before the first question, as it is; everything else is trimmed.
void gemma(const Messages& messages, bool trims_system, std::string& out) {
  const bool system = begins_with_system(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    out += "<start_of_turn>" + (m.role == "assistant" ? std::string("model") : m.role) + "\n";
    if (system && i == 1) {
      const std::string joined = messages[0].content + "\n" + m.content;
      out += trims_system ? std::string(trimmed(joined))
                          : messages[0].content + "\n\n" + std::string(trimmed(m.content));
    } else {
      out += trimmed(m.content);
    }
    out += "<end_of_turn>\n";
  }
}

}  // namespace

void gemma_turns(const Messages& messages, std::string& out) {
  gemma(messages, true, out);  // no system role in the template: llama.cpp joins the two messages
}

void gemma3_turns(const Messages& messages, std::string& out) {
  gemma(messages, false, out);
}

namespace {

// DeepSeek V3 and R1: every system message first, bare. `assistant` opens an answer that is given.
void deepseek(const Messages& messages, bool join_systems, std::string_view assistant, std::string& out) {
  std::string system;
  for (const ChatMessage& m : messages) {
    if (m.role == "system") {
      system = join_systems && !system.empty() ? system + "\n\n" + m.content : m.content;
    }
  }
  out += system;
  for (const ChatMessage& m : messages) {
    if (m.role == "user") {
      out += DS_USER + m.content;
    } else if (m.role == "assistant") {
      out += assistant;
      out += after_thinking(m.content);
      out += DS_END;
    }
  }
}

}  // namespace

void deepseek_turns(const Messages& messages, std::string& out) {
  deepseek(messages, false, DS_ASSISTANT, out);
}

void deepseek_v31_turns(const Messages& messages, std::string& out) {
  deepseek(messages, true, DS_ASSISTANT "</think>", out);
}

void deepseek_v31_llama_cpp_turns(const Messages& messages, std::string& out) {
  deepseek(messages, true, DS_ASSISTANT "<think></think>", out);
}

void deepseek_v2_turns(const Messages& messages, std::string& out) {
  for (const ChatMessage& m : messages) {
    if (m.role == "user") {
      out += "User: " + m.content + "\n\n";
    } else if (m.role == "assistant") {
      out += "Assistant: " + m.content + DS_END;
    } else {
      out += m.content + "\n\n";
    }
  }
}

namespace {

// Mistral's templates differ in blanks and in where the system message goes: with the last question (v3 and
// Nemo), or a turn of its own (v7).
struct MistralForm {
  std::string_view open, close, answer;
  bool trims = false;  // answers
};

void mistral(const Messages& messages, const MistralForm& form, std::string& out) {
  const bool system = begins_with_system(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == "user") {
      out += form.open;
      if (system && i + 1 == messages.size()) {
        out += messages[0].content + "\n\n";
      }
      out += m.content;
      out += form.close;
    } else {
      out += form.answer;
      out += form.trims ? trimmed(m.content) : std::string_view(m.content);
      out += "</s>";
    }
  }
}

}  // namespace

void mistral_nemo_turns(const Messages& messages, std::string& out) {
  mistral(messages, {"[INST]", "[/INST]", "", false}, out);
}

void mistral_v3_turns(const Messages& messages, std::string& out) {
  mistral(messages, {"[INST] ", "[/INST]", " ", true}, out);
}

namespace {

// `blank` stands before every text.
void mistral_v7(const Messages& messages, std::string_view blank, std::string& out) {
  for (const ChatMessage& m : messages) {
    const bool system = m.role == "system", user = m.role == "user";
    out += system ? "[SYSTEM_PROMPT]" : user ? "[INST]" : "";
    out += blank;
    out += m.content;
    out += system ? "[/SYSTEM_PROMPT]" : user ? "[/INST]" : "</s>";
  }
}

}  // namespace

void mistral_v7_turns(const Messages& messages, std::string& out) {
  mistral_v7(messages, " ", out);
}

void mistral_v7_tekken_turns(const Messages& messages, std::string& out) {
  mistral_v7(messages, "", out);
}

}  // namespace engine
