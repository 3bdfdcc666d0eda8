#pragma once
// Chat messages to one prompt. Families of templates are rows of a table, recognised by what their text
// contains; we run no template language. One row today: ChatML.

#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct ChatMessage {
  std::string role, content;
};

struct ChatFamily {
  std::string_view name;
  std::string_view marker;  // a GGUF's template with this in it is of the family
  // The prompt. With open_end the last message is left open for the model to continue (the caller made sure
  // that it is the assistant's); otherwise an assistant turn is opened after the last message.
  std::string (*render)(const std::vector<ChatMessage>& messages, bool open_end);
};

// The family of a template; ChatML for an empty one. An unknown template is ChatML too, and *known says so.
const ChatFamily& chat_family(std::string_view template_text, bool* known);

}  // namespace engine
