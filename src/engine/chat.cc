#include "src/engine/chat.h"

#include <algorithm>

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

void llama3_turn(const ChatMessage& m, std::string& out) {
  out += "<|start_header_id|>" + m.role + "<|end_header_id|>\n\n";
  out += trimmed(m.content);
  out += "<|eot_id|>";
}

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

void gemma_turns(const Messages& messages, std::string& out) {
  gemma(messages, true, out);  // no system role in the template: llama.cpp joins the two messages
}

void gemma3_turns(const Messages& messages, std::string& out) {
  gemma(messages, false, out);
}

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

void deepseek_turns(const Messages& messages, std::string& out) {
  deepseek(messages, false, DS_ASSISTANT, out);
}

void deepseek_v31_turns(const Messages& messages, std::string& out) {
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

void mistral_nemo_turns(const Messages& messages, std::string& out) {
  mistral(messages, {"[INST]", "[/INST]", "", false}, out);
}

void mistral_v3_turns(const Messages& messages, std::string& out) {
  mistral(messages, {"[INST] ", "[/INST]", " ", true}, out);
}

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

void mistral_v7_turns(const Messages& messages, std::string& out) {
  mistral_v7(messages, " ", out);
}

void mistral_v7_tekken_turns(const Messages& messages, std::string& out) {
  mistral_v7(messages, "", out);
}

#define LLAMA3_OPENING "<|start_header_id|>assistant<|end_header_id|>\n\n"
#define CHATML_OPENING "<|im_start|>assistant\n"
#define EMPTY_THOUGHT "<think>\n\n</think>\n\n"

// The first row whose markers are all there. "\\n" is how a template spells a newline.
constexpr ChatFamily kFamilies[] = {
    {.name = "minimax-m2",
     .markers = {"]~b]"},
     .turns = minimax_m2_turns,
     .opening = "]~b]ai\n<think>\n",
     .opening_no_think = "]~b]ai\n" EMPTY_THOUGHT,  // the template itself has no switch
     .opening_answer = "]~b]ai\n" EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .default_system = "model_identity = \"",
     .unlike = {"<mm:think>", "bos_token"}},
    {.name = "qwen3-thinking",  // the template opens the reasoning itself
     .markers = {"multi_step_tool", "<|im_start|>assistant\\n<think>\\n"},
     .turns = qwen3_turns,
     .opening = CHATML_OPENING "<think>\n",
     .opening_no_think = CHATML_OPENING EMPTY_THOUGHT,
     .opening_answer = CHATML_OPENING EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()", "bos_token"}},
    {.name = "qwen3",
     .markers = {"multi_step_tool", "enable_thinking"},
     .turns = qwen3_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING EMPTY_THOUGHT,
     .opening_answer = CHATML_OPENING EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()", "bos_token"}},
    {.name = "qwq",
     .markers = {"split('</think>')[-1]", "<|im_start|>assistant\\n<think>\\n"},
     .turns = qwq_turns,
     .opening = CHATML_OPENING "<think>\n",
     .opening_no_think = CHATML_OPENING "<think>\n</think>",
     .opening_answer = CHATML_OPENING "<think></think>",
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()"}},
    {.name = "qwen3-coder",
     .markers = {"<|im_start|>", "You are Qwen, a helpful AI assistant that can interact"},
     .turns = chatml_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING,
     .opening_answer = CHATML_OPENING},
    {.name = "qwen2.5",
     .markers = {"<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud."},
     .turns = qwen25_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING,
     .opening_answer = CHATML_OPENING,
     .unlike = {"macro ", "trim", "<think>"}},
    {.name = "qwen2",
     .markers = {"<|im_start|>system\\nYou are a helpful assistant.<|im_end|>"},
     .turns = qwen2_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING,
     .opening_answer = CHATML_OPENING,
     .unlike = {"macro ", "trim", "<think>"}},
    {.name = "chatml",
     .markers = {"<|im_start|>"},
     .turns = chatml_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING,
     .opening_answer = CHATML_OPENING,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"You are", "<think>", "thinking", "trim", "macro ", "<|im_sep|>"}},
    {.name = "llama-3.1",
     .markers = {"<|start_header_id|>", "Cutting Knowledge Date"},
     .turns = llama31_turns,
     .opening = LLAMA3_OPENING,
     .opening_no_think = LLAMA3_OPENING,
     .opening_answer = LLAMA3_OPENING,
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "llama-3",
     .markers = {"<|start_header_id|>"},
     .turns = llama3_turns,
     .opening = LLAMA3_OPENING,
     .opening_no_think = LLAMA3_OPENING,
     .opening_answer = LLAMA3_OPENING,
     .unlike = {"You are", "macro ", "<think>", "date"},
     .expects = "trim"},
    {.name = "gemma-3",
     .markers = {"<start_of_turn>", "first_user_prefix"},
     .turns = gemma3_turns,
     .opening = "<start_of_turn>model\n",
     .opening_no_think = "<start_of_turn>model\n",
     .opening_answer = "<start_of_turn>model\n",
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "gemma",
     .markers = {"<start_of_turn>"},
     .turns = gemma_turns,
     .opening = "<start_of_turn>model\n",
     .opening_no_think = "<start_of_turn>model\n",
     .opening_answer = "<start_of_turn>model\n",
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "deepseek-v3.1",
     .markers = {DS_ASSISTANT, "'<think></think>'"},
     .turns = deepseek_v31_turns,
     .opening = DS_ASSISTANT "<think>",
     .opening_no_think = DS_ASSISTANT "<think></think>",
     .opening_answer = DS_ASSISTANT "<think></think>",
     .end_of_thinking = "</think>",
     .unlike = {"dsml", "reasoning_effort", "macro "}},
    {.name = "deepseek-r1",
     .markers = {DS_ASSISTANT "<think>\\n"},
     .turns = deepseek_turns,
     .opening = DS_ASSISTANT "<think>\n",
     .opening_no_think = DS_ASSISTANT "<think>\n</think>",
     .opening_answer = DS_ASSISTANT "<think></think>",
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"dsml", "reasoning_effort", "macro "}},
    {.name = "deepseek-v3",
     .markers = {DS_ASSISTANT},
     .turns = deepseek_turns,
     .opening = DS_ASSISTANT,
     .opening_no_think = DS_ASSISTANT,
     .opening_answer = DS_ASSISTANT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"dsml", "reasoning_effort", "macro ", "enable_thinking"}},
    {.name = "deepseek-v2",
     .markers = {"'Assistant: ' + ", "'User: ' + "},
     .turns = deepseek_v2_turns,
     .opening = "Assistant:",
     .opening_no_think = "Assistant:",
     .opening_answer = "Assistant:",
     .unlike = {"<think>", "trim", "strip()"}},
    {.name = "mistral-v7",
     .markers = {"[SYSTEM_PROMPT] ", "[INST] "},
     .turns = mistral_v7_turns,
     .unlike = {"You are", "[THINK]"}},
    {.name = "mistral-v7-tekken",
     .markers = {"[SYSTEM_PROMPT]", "[INST]"},
     .turns = mistral_v7_tekken_turns,
     .unlike = {"You are", "[THINK]"}},
    {.name = "mistral-nemo",
     .markers = {"\"[INST]\" + "},
     .turns = mistral_nemo_turns,
     .unlike = {"You are", "macro "}},
    {.name = "mistral-v3",
     .markers = {"\"[INST] \" + "},
     .turns = mistral_v3_turns,
     .unlike = {"You are", "macro "},
     .expects = "trim"},
};

}  // namespace

std::string ChatFamily::render(const std::vector<ChatMessage>& messages, ChatEnd end, bool thinking) const {
  std::string out;
  if (end == ChatEnd::kContinued && !messages.empty()) {
    turns({messages.begin(), messages.end() - 1}, out);
    out += opening_answer;
    return out += messages.back().content;
  }
  turns(messages, out);
  if (end == ChatEnd::kOpened) {
    out += thinking ? opening : opening_no_think;
  }
  return out;
}

std::string_view ChatFamily::opened_thinking(ChatEnd end, bool thinking) const {
  if (end != ChatEnd::kOpened) {
    return "";
  }
  const std::string_view opened = thinking ? opening : opening_no_think;
  return opened.substr(std::min(opened.find(kThink), opened.size()));
}

bool ChatFamily::opens_reasoning(ChatEnd end, bool thinking) const {
  const std::string_view opened = opened_thinking(end, thinking);
  return !opened.empty() && opened.find(kEndThink) == std::string_view::npos;
}

std::span<const ChatFamily> chat_families() {
  return kFamilies;
}

const ChatFamily* find_chat_family(std::string_view name) {
  const auto* found = std::ranges::find(kFamilies, name, &ChatFamily::name);
  return found == std::end(kFamilies) ? nullptr : found;
}

const ChatFamily* recognise_chat_family(std::string_view template_text) {
  const auto* found = std::ranges::find_if(kFamilies, [&](const ChatFamily& family) {
    return std::ranges::all_of(family.markers, [&](std::string_view marker) {
      return template_text.find(marker) != std::string_view::npos;
    });
  });
  return found == std::end(kFamilies) ? nullptr : found;
}

}  // namespace engine
