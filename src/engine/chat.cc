#include "src/engine/chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/engine/chat_turns.h"

namespace engine {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";
#define DS_ASSISTANT \
  "<\xEF\xBD\x9C"    \
  "Assistant\xEF\xBD\x9C>"  // spelled with U+FF5C

#define LLAMA3_OPENING "<|start_header_id|>assistant<|end_header_id|>\n\n"
#define CHATML_OPENING "<|im_start|>assistant\n"
#define EMPTY_THOUGHT "<think>\n\n</think>\n\n"

// The first row whose markers are all there. "\\n" is how a template spells a newline.
constexpr ChatFamily kFamilies[] = {
    {.name = "minimax-m2",
     .markers = {"]~b]"},
     .turns = minimax_m2_turns,
     .roles = ChatRoles::kSystemFirst,
     .opening = "]~b]ai\n<think>\n",
     .opening_no_think = "]~b]ai\n" EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .default_system = "model_identity = \"",
     .unlike = {"<mm:think>", "bos_token"},
     .always_thinks = true},
    {.name = "qwen3-thinking",  // the template opens the reasoning itself
     .markers = {"multi_step_tool", "<|im_start|>assistant\\n<think>\\n"},
     .turns = qwen3_turns,
     .opening = CHATML_OPENING "<think>\n",
     .opening_no_think = CHATML_OPENING EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()", "bos_token"},
     .always_thinks = true},
    {.name = "qwen3",
     .markers = {"multi_step_tool", "enable_thinking"},
     .turns = qwen3_turns,
     .opening = CHATML_OPENING,
     .opening_no_think = CHATML_OPENING EMPTY_THOUGHT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()", "bos_token"}},
    {.name = "qwq",
     .markers = {"split('</think>')[-1]", "<|im_start|>assistant\\n<think>\\n"},
     .turns = qwq_turns,
     .opening = CHATML_OPENING "<think>\n",
     .opening_no_think = CHATML_OPENING "<think>\n</think>",
     .opening_answer = CHATML_OPENING "<think></think>",
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"macro ", "trim", "strip()"},
     .always_thinks = true},
    {.name = "qwen3-coder",
     .markers = {"<|im_start|>", "You are Qwen, a helpful AI assistant that can interact"},
     .turns = chatml_turns,
     .opening = CHATML_OPENING},
    {.name = "qwen2.5",
     .markers = {"<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud."},
     .turns = qwen25_turns,
     .opening = CHATML_OPENING,
     .unlike = {"macro ", "trim", "<think>"}},
    {.name = "qwen2",
     .markers = {"<|im_start|>system\\nYou are a helpful assistant.<|im_end|>"},
     .turns = qwen2_turns,
     .roles = ChatRoles::kAny,
     .opening = CHATML_OPENING,
     .unlike = {"macro ", "trim", "<think>"}},
    {.name = "chatml",
     .markers = {"<|im_start|>"},
     .turns = chatml_turns,
     .roles = ChatRoles::kAny,
     .opening = CHATML_OPENING,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"You are", "<think>", "thinking", "trim", "macro ", "<|im_sep|>"}},
    {.name = "llama-3.1",
     .markers = {"<|start_header_id|>", "Cutting Knowledge Date"},
     .turns = llama31_turns,
     .opening = LLAMA3_OPENING,
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "llama-3",
     .markers = {"<|start_header_id|>"},
     .turns = llama3_turns,
     .roles = ChatRoles::kAny,
     .opening = LLAMA3_OPENING,
     .unlike = {"You are", "macro ", "<think>", "date"},
     .expects = "trim"},
    {.name = "gemma-3",
     .markers = {"<start_of_turn>", "first_user_prefix"},
     .turns = gemma3_turns,
     .roles = ChatRoles::kSystemFirst,
     .opening = "<start_of_turn>model\n",
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "gemma",
     .markers = {"<start_of_turn>"},
     .turns = gemma_turns,
     .roles = ChatRoles::kSystemFirst,
     .opening = "<start_of_turn>model\n",
     .unlike = {"macro ", "<think>"},
     .expects = "trim"},
    {.name = "deepseek-v3.1-llama.cpp",  // llama.cpp's copy of the template, which adds the opening tag
     .markers = {DS_ASSISTANT, "'<think></think>'"},
     .turns = deepseek_v31_llama_cpp_turns,
     .opening = DS_ASSISTANT "<think>",
     .opening_no_think = DS_ASSISTANT "<think></think>",
     .end_of_thinking = "</think>",
     .unlike = {"dsml", "reasoning_effort", "macro "}},
    {.name = "deepseek-v3.1",
     .markers = {DS_ASSISTANT, "{{'</think>'}}"},
     .turns = deepseek_v31_turns,
     .opening = DS_ASSISTANT "<think>",
     .opening_no_think = DS_ASSISTANT "</think>",
     .end_of_thinking = "</think>",
     .unlike = {"dsml", "reasoning_effort", "macro ", "<think>\\n"}},
    {.name = "deepseek-r1",
     .markers = {DS_ASSISTANT "<think>\\n"},
     .turns = deepseek_turns,
     .opening = DS_ASSISTANT "<think>\n",
     .opening_no_think = DS_ASSISTANT "<think>\n</think>",
     .opening_answer = DS_ASSISTANT "<think></think>",
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"dsml", "reasoning_effort", "macro "},
     .always_thinks = true},
    {.name = "deepseek-v3",
     .markers = {DS_ASSISTANT},
     .turns = deepseek_turns,
     .opening = DS_ASSISTANT,
     .end_of_thinking = "\n</think>\n\n",
     .unlike = {"dsml", "reasoning_effort", "macro ", "thinking", "</think>"}},
    {.name = "deepseek-v2",
     .markers = {"'Assistant: ' + ", "'User: ' + "},
     .turns = deepseek_v2_turns,
     .opening = "Assistant:",
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
     .roles = ChatRoles::kSystemFirst,
     .unlike = {"You are", "macro "}},
    {.name = "mistral-v3",
     .markers = {"\"[INST] \" + "},
     .turns = mistral_v3_turns,
     .roles = ChatRoles::kSystemFirst,
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

std::string ChatFamily::unprinted(const std::vector<ChatMessage>& messages) const {
  for (const ChatMessage& message : messages) {
    const bool system = message.role == "system";
    if (roles == ChatRoles::kAny || message.role == "user" || message.role == "assistant" ||
        (system && (roles == ChatRoles::kSystem || &message == &messages.front()))) {
      continue;
    }
    return system ? fmt::format(
                        "a system message must be the first message: the chat template ({}) prints it "
                        "nowhere else",
                        name)
                  : fmt::format(
                        "messages of role '{}' are not supported with this model's chat template ({}): its "
                        "roles are user, assistant and system",
                        message.role, name);
  }
  return "";
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
