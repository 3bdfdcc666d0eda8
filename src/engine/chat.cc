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

void chatml_turns(const Messages& messages, bool open_end, std::string& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    out += "<|im_start|>" + messages[i].role + "\n" + messages[i].content;
    if (!open_end || i + 1 < messages.size()) {
      out += "<|im_end|>\n";
    }
  }
}

void qwen25_turns(const Messages& messages, bool open_end, std::string& out) {
  if (!begins_with_system(messages)) {
    out +=
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
        "assistant.<|im_end|>\n";
  }
  chatml_turns(messages, open_end, out);
}

void qwen2_turns(const Messages& messages, bool open_end, std::string& out) {
  if (!begins_with_system(messages)) {
    out += "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  }
  chatml_turns(messages, open_end, out);
}

void qwen3_turns(const Messages& messages, bool open_end, std::string& out) {
  // Without any question the template takes the last message for it.
  const size_t after = std::max<size_t>(after_last_user(messages), 1);
  const bool asked = after_last_user(messages) > 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const bool open = open_end && i + 1 == messages.size();
    out += "<|im_start|>" + m.role + "\n";
    if (m.role != "assistant" || open) {
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
    if (!open) {
      out += "<|im_end|>\n";
    }
  }
}

void minimax_m2_turns(const Messages& messages, bool open_end, std::string& out) {
  const bool system = begins_with_system(messages);
  out += "]~!b[]~b]system\n";
  out += system && !messages[0].content.empty() ? messages[0].content : "You are a helpful assistant.";
  out += "[e~[\n";
  const size_t after = after_last_user(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const bool open = open_end && i + 1 == messages.size();
    if (m.role == "user") {
      out += "]~b]user\n" + m.content + "[e~[\n";
    } else if (m.role == "assistant") {
      out += "]~b]ai\n";
      const bool has = m.content.find(kEndThink) != std::string::npos;
      if (has && !open) {
        if (std::string_view thinking = thinking_in(m.content); !thinking.empty() && i >= after) {
          out += "<think>\n";
          out += thinking;
          out += "\n</think>\n\n";
        }
        out += stripped(after_thinking(m.content), "\n");
      } else {
        out += m.content;
      }
      if (!open) {
        out += "[e~[\n";
      }
    }  // other roles: the template leaves them out
  }
}

void llama3_turn(const ChatMessage& m, bool open, std::string& out) {
  out += "<|start_header_id|>" + m.role + "<|end_header_id|>\n\n";
  out += open ? std::string_view(m.content) : trimmed(m.content);
  if (!open) {
    out += "<|eot_id|>";
  }
}

void llama3_turns(const Messages& messages, bool open_end, std::string& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    llama3_turn(messages[i], open_end && i + 1 == messages.size(), out);
  }
}

void llama31_turns(const Messages& messages, bool open_end, std::string& out) {
  const bool system = begins_with_system(messages);
  out += "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n";
  out += "Today Date: 26 Jul 2024\n\n";
  out += system ? trimmed(messages[0].content) : "";
  out += "<|eot_id|>";
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    llama3_turn(messages[i], open_end && i + 1 == messages.size(), out);
  }
}

void gemma_turns(const Messages& messages, bool open_end, std::string& out) {
  // The template knows no system role; llama.cpp puts such a message before the next one's text.
  const bool system = begins_with_system(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const bool open = open_end && i + 1 == messages.size();
    std::string content = system && i == 1 ? messages[0].content + "\n" + m.content : m.content;
    out += "<start_of_turn>" + (m.role == "assistant" ? std::string("model") : m.role) + "\n";
    out += open ? std::string_view(content) : trimmed(content);
    if (!open) {
      out += "<end_of_turn>\n";
    }
  }
}

// DeepSeek V3 and R1: every system message first, bare. `assistant` opens an answer that is given.
void deepseek(const Messages& messages, bool open_end, bool join_systems, std::string_view assistant,
              std::string& out) {
  std::string system;
  for (const ChatMessage& m : messages) {
    if (m.role == "system") {
      system = join_systems && !system.empty() ? system + "\n\n" + m.content : m.content;
    }
  }
  out += system;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const bool open = open_end && i + 1 == messages.size();
    if (m.role == "user") {
      out += DS_USER + m.content;
    } else if (m.role == "assistant") {
      out += assistant;
      out += after_thinking(m.content);
      out += open ? "" : DS_END;
    }
  }
}

void deepseek_turns(const Messages& messages, bool open_end, std::string& out) {
  deepseek(messages, open_end, false, DS_ASSISTANT, out);
}

void deepseek_v31_turns(const Messages& messages, bool open_end, std::string& out) {
  deepseek(messages, open_end, true, DS_ASSISTANT "<think></think>", out);
}

void deepseek_v2_turns(const Messages& messages, bool open_end, std::string& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == "user") {
      out += "User: " + m.content + "\n\n";
    } else if (m.role == "assistant") {
      out += "Assistant: " + m.content + (open_end && i + 1 == messages.size() ? "" : DS_END);
    } else {
      out += m.content + "\n\n";
    }
  }
}

// Mistral's templates differ in blanks and in where the system message goes: with the last question (v3 and
// Nemo), or a turn of its own (v7).
struct MistralForm {
  std::string_view open, close, answer;
};

void mistral(const Messages& messages, bool open_end, const MistralForm& form, std::string& out) {
  const bool system = begins_with_system(messages);
  for (size_t i = system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    const bool open = open_end && i + 1 == messages.size();
    if (m.role == "user") {
      out += form.open;
      // The template looks at the last message only; one that is to be continued is not there for it.
      if (system && i + (open_end ? 2 : 1) == messages.size()) {
        out += messages[0].content + "\n\n";
      }
      out += m.content;
      out += form.close;
    } else {
      out += form.answer;
      out += m.content;
      out += open ? "" : "</s>";
    }
  }
}

void mistral_nemo_turns(const Messages& messages, bool open_end, std::string& out) {
  mistral(messages, open_end, {"[INST]", "[/INST]", ""}, out);
}

void mistral_v3_turns(const Messages& messages, bool open_end, std::string& out) {
  mistral(messages, open_end, {"[INST] ", "[/INST]", " "}, out);
}

void mistral_v7_turns(const Messages& messages, bool open_end, std::string& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == "system") {
      out += "[SYSTEM_PROMPT]" + m.content + "[/SYSTEM_PROMPT]";
    } else if (m.role == "user") {
      out += "[INST]" + m.content + "[/INST]";
    } else {
      out += m.content + (open_end && i + 1 == messages.size() ? "" : "</s>");
    }
  }
}

#define LLAMA3_OPENING "<|start_header_id|>assistant<|end_header_id|>\n\n"
#define CHATML_OPENING "<|im_start|>assistant\n"

// The first row whose markers are all there. "\\n" is how a template spells a newline.
constexpr ChatFamily kFamilies[] = {
    {"minimax-m2",
     {"]~b]", ""},
     minimax_m2_turns,
     "]~b]ai\n<think>\n",
     "]~b]ai\n<think>\n\n</think>\n\n",
     true},
    {"qwq",  // and the Qwen3 models that always think: the template opens the reasoning itself
     {"multi_step_tool", "<|im_start|>assistant\\n<think>\\n"},
     qwen3_turns,
     CHATML_OPENING "<think>\n",
     CHATML_OPENING "<think>\n\n</think>\n\n",
     true},
    {"qwen3",
     {"multi_step_tool", "enable_thinking"},
     qwen3_turns,
     CHATML_OPENING,
     CHATML_OPENING "<think>\n\n</think>\n\n",
     true},
    {"qwen2.5",
     {"<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.", ""},
     qwen25_turns,
     CHATML_OPENING,
     CHATML_OPENING},
    {"qwen2",
     {"<|im_start|>system\\nYou are a helpful assistant.<|im_end|>", ""},
     qwen2_turns,
     CHATML_OPENING,
     CHATML_OPENING},
    {"chatml", {"<|im_start|>", ""}, chatml_turns, CHATML_OPENING, CHATML_OPENING, true},
    {"llama-3.1",
     {"<|start_header_id|>", "Cutting Knowledge Date"},
     llama31_turns,
     LLAMA3_OPENING,
     LLAMA3_OPENING},
    {"llama-3", {"<|start_header_id|>", ""}, llama3_turns, LLAMA3_OPENING, LLAMA3_OPENING},
    {"gemma", {"<start_of_turn>", ""}, gemma_turns, "<start_of_turn>model\n", "<start_of_turn>model\n"},
    {"deepseek-v3.1",
     {DS_ASSISTANT, "'<think></think>'"},
     deepseek_v31_turns,
     DS_ASSISTANT "<think>",
     DS_ASSISTANT "<think></think>",
     true},
    {"deepseek-r1",
     {DS_ASSISTANT "<think>\\n", ""},
     deepseek_turns,
     DS_ASSISTANT "<think>\n",
     DS_ASSISTANT "<think>\n</think>",
     true},
    {"deepseek-v3", {DS_ASSISTANT, ""}, deepseek_turns, DS_ASSISTANT, DS_ASSISTANT, true},
    {"deepseek-v2", {"'Assistant: ' + ", "'User: ' + "}, deepseek_v2_turns, "Assistant:", "Assistant:"},
    {"mistral-v7", {"[SYSTEM_PROMPT]", "[INST]"}, mistral_v7_turns, "", ""},
    {"mistral-nemo", {"\"[INST]\" + ", ""}, mistral_nemo_turns, "", ""},
    {"mistral-v3", {"\"[INST] \" + ", ""}, mistral_v3_turns, "", ""},
};

constexpr const ChatFamily& kChatml = kFamilies[5];
static_assert(kChatml.name == "chatml");

}  // namespace

std::string ChatFamily::render(const std::vector<ChatMessage>& messages, bool open_end, bool thinking) const {
  std::string out;
  turns(messages, open_end, out);
  if (!open_end) {
    out += thinking ? opening : opening_no_think;
  }
  return out;
}

bool ChatFamily::opens_reasoning(bool open_end, bool thinking) const {
  return !open_end && thinking && opening.find(kThink) != std::string_view::npos;
}

const ChatFamily& chat_family(std::string_view template_text, bool* known) {
  *known = true;
  for (const ChatFamily& family : kFamilies) {
    if (std::all_of(family.markers.begin(), family.markers.end(), [&](std::string_view marker) {
          return template_text.find(marker) != std::string_view::npos;
        })) {
      return family;
    }
  }
  *known = template_text.empty();
  return kChatml;
}

}  // namespace engine
