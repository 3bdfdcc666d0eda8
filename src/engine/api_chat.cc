// Chat requests: the conversation, and how much thinking it wants.

#include <fmt/format.h>

#include <limits>

#include "src/engine/api.h"
#include "src/engine/request_fields.h"

namespace engine {
namespace {

using base::Json;

MaybeError read_content(const Json& message, ChatMessage& out) {
  const RequestFields fields(message);
  // Beside a content they would be lost, and with them what the tool's answer answers.
  for (const char* calls : {"tool_calls", "function_call"}) {
    if (const Json* made = fields.find(calls); made && !made->empty()) {
      return invalid_request(fmt::format("messages with '{}' are not supported by tbq-server", calls));
    }
  }
  const Json* content = fields.find("content");
  if (!content) {
    return out.role == "assistant"
               ? std::nullopt
               : MaybeError(invalid_request("All non-assistant messages must contain 'content'"));
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
  RequestFields fields(body);
  bool opened = true;
  fields.boolean("add_generation_prompt", opened);
  if (fields.error) {
    return fields.error;
  }
  const Json* wish = fields.find("continue_final_message");
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

MaybeError read_thinking_switch(const Json& kwargs, bool& thinking) {
  for (const auto& [key, value] : kwargs.items()) {
    if (value.is_null()) {
      continue;
    }
    if (key != "enable_thinking") {
      return invalid_request(
          fmt::format("Field 'chat_template_kwargs': '{}' is taken by no template here, only enable_thinking "
                      "is; leave it out",
                      key));
    }
    if (!value.is_boolean()) {
      return invalid_request(
          fmt::format("invalid type for \"enable_thinking\" (expected boolean, got {})", value.type_name()));
    }
    thinking = value.get<bool>();
  }
  return std::nullopt;
}

MaybeError read_reasoning(const Json& body, ChatRequest& out) {
  constexpr int kMaxBudget = std::numeric_limits<int>::max();
  ReasoningOptions& reasoning = out.reasoning;
  RequestFields fields(body);
  std::string format, effort;
  fields.string("reasoning_format", format);
  fields.string("reasoning_effort", effort);
  fields.string("reasoning_budget_message", reasoning.budget_message);
  for (std::string_view name : {"thinking_budget_tokens", "reasoning_budget_tokens"}) {
    fields.number(name, reasoning.budget, -1, kMaxBudget, true);  // -1 lifts the server's
  }
  const Json* kwargs = fields.find("chat_template_kwargs");
  if (kwargs && !kwargs->is_object()) {
    fields.wrong_type("chat_template_kwargs", "object", *kwargs);
  }
  if (fields.error) {
    return fields.error;
  }
  if (!format.empty()) {
    if (const std::string why = set_reasoning_format(reasoning, format); !why.empty()) {
      return invalid_request(why);
    }
  }
  if (kwargs) {
    if (MaybeError error = read_thinking_switch(*kwargs, reasoning.thinking)) {
      return error;
    }
  }
  reasoning.thinking = reasoning.thinking && effort != "none";
  return std::nullopt;
}

}  // namespace

MaybeError parse_chat(const Json& body, const ReasoningOptions& defaults, const ChatFamily& family,
                      ChatRequest& out) {
  out.reasoning = defaults;
  MaybeError error = read_messages(body, out.messages);
  if (const std::string why = family.unprinted(out.messages); !error && !why.empty()) {
    error = invalid_request(why);
  }
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
