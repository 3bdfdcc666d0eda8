#pragma once
// Chat messages to one prompt. Families of templates are rows of a table, recognised by what their text
// contains; we run no template language. A prompt is what the template itself gives for plain conversations,
// without the BOS token (the tokenizer puts it first) and without tools. Pure: no clock, so that a prompt is
// the same every night (llama-3.2's date is the one its template has for lack of a clock).

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct ChatMessage {
  std::string role, content;
};

struct ChatFamily {
  std::string_view name;
  std::array<std::string_view, 2> markers;  // a GGUF's template with all of these in it is of the family
  // The turns, one after another. With open_end the last one is left open for the model to continue (the
  // caller made sure that it is the assistant's).
  void (*turns)(const std::vector<ChatMessage>& messages, bool open_end, std::string& out);
  std::string_view opening;           // begins the assistant's next turn
  std::string_view opening_no_think;  // the same where thinking is switched off
  bool reasons = false;               // answers may begin with <think>...</think> (chat_reasoning.h)

  std::string render(const std::vector<ChatMessage>& messages, bool open_end, bool thinking = true) const;
  // The model's text begins inside its reasoning: the prompt has opened it.
  bool opens_reasoning(bool open_end, bool thinking = true) const;
};

// The family of a template; ChatML for an empty one. An unknown template is ChatML too, and *known says so.
const ChatFamily& chat_family(std::string_view template_text, bool* known);

}  // namespace engine
