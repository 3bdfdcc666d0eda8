#pragma once
// Chat messages to one prompt. Families of templates are rows of a table, recognised by what their text
// contains; we run no template language. A prompt is what the template itself gives for plain conversations,
// without the BOS token (chat_template.h knows about that) and without tools. Pure: no clock, so that a prompt
// is the same every night (llama-3.2's date is the one its template has for lack of a clock).
//
// Where a template language will go: beside ChatFamily in chat_template.h, which then renders by running the
// template's text; the rows stay as what is checked against and for models without a template. Where tool calls
// will go: ChatMessage gains them for turns(), and a splitter like ReasoningSplitter takes them out of the text.

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct ChatMessage {
  std::string role, content;
};

enum class ChatEnd {
  kOpened,     // the assistant's next turn is opened
  kContinued,  // the last message, the assistant's, is left open to be continued; its thinking is over
  kClosed,     // nothing follows the last message
};

// The roles whose messages a family's template prints.
enum class ChatRoles {
  kSystemFirst,  // user, assistant, and system as the first message
  kSystem,       // user, assistant, system
  kAny,
};

struct ChatFamily {  // NOLINT(clang-analyzer-optin.performance.Padding): a row is read in this order
  std::string_view name;
  std::array<std::string_view, 2> markers = {};  // a template with all of these in it is of the family
  void (*turns)(const std::vector<ChatMessage>& messages, std::string& out) = nullptr;
  ChatRoles roles = ChatRoles::kSystem;
  std::string_view opening = {};                // begins the assistant's next turn
  std::string_view opening_no_think = opening;  // the same where thinking is switched off
  std::string_view opening_answer =
      opening_no_think;  // the same before the beginning of an answer that is given
  // What a model whose thinking is cut short says in its end's place; "": its answers are never split.
  std::string_view end_of_thinking = {};
  // What a template has before the system message it takes for want of one, up to the closing quote.
  std::string_view default_system = {};
  // Where a template of these markers has one of `unlike` in it, or lacks `expects`, its prompts may differ.
  std::array<std::string_view, 6> unlike = {};
  std::string_view expects = {};

  // The template opens the reasoning and has no way to switch it off: opening_no_think is not its own text.
  bool always_thinks = false;

  // Why `messages` cannot be rendered without a loss; "": they can.
  std::string unprinted(const std::vector<ChatMessage>& messages) const;
  bool reasons() const { return !end_of_thinking.empty(); }  // answers may begin with <think>...</think>
  std::string render(const std::vector<ChatMessage>& messages, ChatEnd end, bool thinking = true) const;
  // The part of the prompt, from <think> on, that belongs to the model's turn; "" where there is none.
  std::string_view opened_thinking(ChatEnd end, bool thinking = true) const;
  // The model's text begins inside its reasoning: the prompt has opened it and not ended it.
  bool opens_reasoning(ChatEnd end, bool thinking = true) const;
};

std::span<const ChatFamily> chat_families();
const ChatFamily* find_chat_family(std::string_view name);                // nullptr: none of this name
const ChatFamily* recognise_chat_family(std::string_view template_text);  // nullptr: an unknown template

}  // namespace engine
