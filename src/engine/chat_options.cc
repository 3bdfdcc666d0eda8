#include "src/engine/chat_options.h"

#include <fmt/format.h>

#include "src/base/json.h"
#include "src/os/files.h"

namespace engine {

std::string set_chat_template(ChatOptions& options, std::string_view value) {
  auto chosen = ChatTemplate::from_option(value);
  if (!chosen) {
    return chosen.failure().to_string();
  }
  options.chat_template = *std::move(chosen);
  return "";
}

std::string set_chat_template_file(ChatOptions& options, std::string_view path) {
  constexpr uint64_t kMaxBytes = 1 << 20;
  auto text = os::read_file(std::string(path), kMaxBytes);
  return text ? set_chat_template(options, *text) : text.failure().to_string();
}

std::string set_chat_template_kwargs(ReasoningOptions& options, std::string_view json,
                                     std::vector<std::string>& warnings) {
  auto parsed = base::parse_json(json, "");
  if (!parsed || !parsed->is_object()) {
    return "must be a JSON object, such as {\"enable_thinking\": false}";
  }
  for (const auto& [key, value] : parsed->items()) {
    if (key != "enable_thinking") {
      warnings.push_back(
          fmt::format("--chat-template-kwargs: '{}' is ignored: no template here takes it", key));
    } else if (!value.is_boolean()) {
      return "enable_thinking must be true or false";
    } else {
      options.thinking = value.get<bool>();
    }
  }
  return "";
}

std::string set_reasoning_format(ReasoningOptions& options, std::string_view value) {
  options.split = value != "none";
  for (std::string_view known : {"none", "auto", "deepseek", "deepseek-legacy"}) {
    if (value == known) {
      return "";
    }
  }
  return fmt::format("Unknown reasoning format: {}; one of none, auto, deepseek, deepseek-legacy", value);
}

std::string set_reasoning(ReasoningOptions& options, std::string_view value) {
  for (std::string_view off : {"off", "disabled", "false", "0"}) {
    if (value == off) {
      options.thinking = false;
      return "";
    }
  }
  for (std::string_view on : {"on", "enabled", "true", "1", "auto"}) {
    if (value == on) {
      options.thinking = true;
      return "";
    }
  }
  return fmt::format("unknown value '{}'; one of on, off, auto", value);
}

}  // namespace engine
