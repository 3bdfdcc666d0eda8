#pragma once
// How a server treats chats by default: which template, and how much thinking. Requests may say otherwise of
// everything but the template. The setters take what a command line says and return why it is refused, or "".

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/chat_template.h"

namespace engine {

struct ReasoningOptions {
  bool thinking = true;
  bool split = true;           // apart from the answer; false: left within it
  int budget = -1;             // tokens; -1: no limit
  std::string budget_message;  // said before the end of thinking that is cut short
};

struct ChatOptions {
  std::optional<ChatTemplate> chat_template;  // instead of the model's own
  ReasoningOptions reasoning;
};

std::string set_chat_template(ChatOptions& options, std::string_view value);
std::string set_chat_template_file(ChatOptions& options, std::string_view path);
// A JSON object; enable_thinking is the one key that has an effect.
std::string set_chat_template_kwargs(ReasoningOptions& options, std::string_view json,
                                     std::vector<std::string>& warnings);
// none, or auto, deepseek and deepseek-legacy, which llama-server's answers do not tell apart either.
std::string set_reasoning_format(ReasoningOptions& options, std::string_view value);
std::string set_reasoning(ReasoningOptions& options, std::string_view value);  // on, off, auto

}  // namespace engine
