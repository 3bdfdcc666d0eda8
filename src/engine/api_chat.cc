// Chat requests: the conversation, and how much thinking it wants.

#include <fmt/format.h>

#include <limits>

#include "src/engine/api.h"

namespace engine {
namespace {

using base::Json;

// nullptr for what is absent or null.
const Json* find(const Json& body, std::string_view name) {
  auto found = body.find(name);
  return found == body.end() || found->is_null() ? nullptr : &*found;
}

ApiError wrong_type(std::string_view name, std::string_view want, const Json& got) {
  return invalid_request(fmt::format("Field '{}': [json.exception.type_error.302] type must be {}, but is {}",
                                     name, want, got.type_name()));
}

MaybeError read_boolean(const Json& body, std::string_view name, bool& out) {
  if (const Json* value = find(body, name)) {
    if (!value->is_boolean()) {
      return wrong_type(name, "boolean", *value);
    }
    out = value->get<bool>();
  }
  return std::nullopt;
}

MaybeError read_string(const Json& body, std::string_view name, std::string& out) {
  if (const Json* value = find(body, name)) {
    if (!value->is_string()) {
      return wrong_type(name, "string", *value);
    }
    out = value->get<std::string>();
  }
  return std::nullopt;
}

MaybeError read_budget(const Json& body, std::string_view name, int& out) {
  constexpr int kMax = std::numeric_limits<int>::max();
  if (const Json* value = find(body, name)) {
    if (!value->is_number()) {
      return wrong_type(name, "number", *value);
    }
    const auto asked = value->get<double>();
    if (!(asked >= -1 && asked <= kMax)) {
      return invalid_request(
          fmt::format("Field '{}': Value must be between -1 <= value <= {}, but got {}", name, kMax, asked));
    }
    out = asked < 0 ? out : static_cast<int>(asked);  // -1: the server's
  }
  return std::nullopt;
}

MaybeError read_content(const Json& message, ChatMessage& out) {
  const Json* content = find(message, "content");
  if (!content) {
    if (out.role != "assistant") {
      return invalid_request("All non-assistant messages must contain 'content'");
    }
    return message.contains("tool_calls")
               ? MaybeError(invalid_request("messages with 'tool_calls' are not supported by tbq-server"))
               : std::nullopt;
  }
  if (content->is_string()) {
    out.content = content->get<std::string>();
    return std::nullopt;
  }
  if (!content->is_array()) {
    return invalid_request("Expected 'content' to be a string or an array");
  }
  for (const Json& part : *content) {
    if (base::json_get<std::string>(part, "type", "") != "text") {
      return invalid_request("unsupported content[].type: only 'text' is supported");
    }
    out.content += &part == &content->front() ? "" : "\n";
    out.content += base::json_get<std::string>(part, "text", "");
  }
  return std::nullopt;
}

// Whether the last message is to be continued, as llama-server decides it.
MaybeError read_end(const Json& body, ChatRequest& out) {
  bool opened = true;
  if (MaybeError error = read_boolean(body, "add_generation_prompt", opened)) {
    return error;
  }
  const Json* wish = find(body, "continue_final_message");
  const bool continued = wish && (*wish == true || *wish == "content");
  if (wish && *wish == "reasoning_content") {
    return invalid_request(
        "Field 'continue_final_message': \"reasoning_content\" is not supported by tbq-server");
  }
  if (wish && !continued && *wish != false) {
    return invalid_request("Field 'continue_final_message': must be true, false or \"content\"");
  }
  if (continued && opened) {
    return invalid_request("Cannot set both add_generation_prompt and continue_final_message to true.");
  }
  const std::vector<ChatMessage>& messages = out.messages;
  const bool answered = messages.back().role == "assistant";
  if (continued && !answered) {
    return invalid_request("continue_final_message needs an assistant's message at the end of the list.");
  }
  if (answered && messages.size() >= 2 && messages[messages.size() - 2].role == "assistant") {
    return invalid_request("Cannot have 2 or more assistant messages at the end of the list.");
  }
  out.end = answered ? ChatEnd::kContinued : opened ? ChatEnd::kOpened : ChatEnd::kClosed;
  return std::nullopt;
}

MaybeError read_messages(const Json& body, std::vector<ChatMessage>& out) {
  auto messages = body.find("messages");
  if (messages == body.end()) {
    return invalid_request("'messages' is required");
  }
  if (!messages->is_array()) {
    return invalid_request("Expected 'messages' to be an array");
  }
  if (messages->empty()) {
    return invalid_request("'messages' must not be empty");
  }
  for (const Json& message : *messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return invalid_request("Each message must be an object with a 'role'");
    }
    auto role = message["role"].get<std::string>();
    ChatMessage& added = out.emplace_back(ChatMessage{role == "developer" ? "system" : role, ""});
    if (MaybeError error = read_content(message, added)) {
      return error;
    }
  }
  return std::nullopt;
}

MaybeError read_reasoning(const Json& body, ChatRequest& out) {
  ReasoningOptions& reasoning = out.reasoning;
  std::string format, effort;
  for (MaybeError error :
       {read_string(body, "reasoning_format", format), read_string(body, "reasoning_effort", effort),
        read_string(body, "reasoning_budget_message", reasoning.budget_message),
        read_budget(body, "thinking_budget_tokens", reasoning.budget),
        read_budget(body, "reasoning_budget_tokens", reasoning.budget)}) {
    if (error) {
      return error;
    }
  }
  if (!format.empty()) {
    if (const std::string why = set_reasoning_format(reasoning, format); !why.empty()) {
      return invalid_request(why);
    }
  }
  if (const Json* kwargs = find(body, "chat_template_kwargs")) {
    if (!kwargs->is_object()) {
      return wrong_type("chat_template_kwargs", "object", *kwargs);
    }
    const Json* thinking = find(*kwargs, "enable_thinking");
    if (thinking && !thinking->is_boolean()) {
      return invalid_request(fmt::format("invalid type for \"enable_thinking\" (expected boolean, got {})",
                                         thinking->type_name()));
    }
    reasoning.thinking = thinking ? thinking->get<bool>() : reasoning.thinking;
  }
  reasoning.thinking = reasoning.thinking && effort != "none";
  return std::nullopt;
}

}  // namespace

MaybeError parse_chat(const Json& body, const ReasoningOptions& defaults, ChatRequest& out) {
  out.reasoning = defaults;
  MaybeError error = read_messages(body, out.messages);
  if (!error) {
    error = read_end(body, out);
  }
  return error ? error : read_reasoning(body, out);
}

ReasoningLimit reasoning_limit(const ChatRequest& request, const ChatFamily& family,
                               const Tokenizer& tokenizer) {
  const ReasoningOptions& reasoning = request.reasoning;
  ReasoningLimit out;
  out.n_max = reasoning.thinking ? reasoning.budget : 0;
  if (!family.reasons() || out.n_max < 0) {
    return {};
  }
  out.inside = family.opens_reasoning(request.end, reasoning.thinking);
  out.ending = tokenizer.encode(reasoning.budget_message + std::string(family.end_of_thinking), false, true);
  return out;
}

}  // namespace engine
