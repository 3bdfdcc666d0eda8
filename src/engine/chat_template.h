#pragma once
// The chat template a model comes with, or the one it was given instead, as this server follows it: the family
// that renders it, and what is to be said about the match. Pure.

#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/engine/chat.h"

namespace engine {

class ChatTemplate {
 public:
  // ChatML, for a model without a template.
  ChatTemplate();
  // The template's text. An unknown one is rendered as ChatML, and warning() says so.
  static ChatTemplate from_text(std::string text);
  // What --chat-template has: the name of a family, as we or llama.cpp spell it, or a template's text of a known
  // family. An Error otherwise: whoever names a template means it.
  static base::Result<ChatTemplate> from_option(std::string_view value);

  const std::string& text() const { return text_; }  // or the family's name
  const ChatFamily& family() const { return *family_; }
  // "": the prompts of plain conversations are the template's, but for what note() says.
  const std::string& warning() const { return warning_; }
  // What this server prints that the template never does, where thinking is switched off or an answer is
  // continued; "": nothing of the kind.
  std::string note() const;

  // How the vocabulary begins a text: the BOS token spelled out, and whether the tokenizer puts it there by
  // itself.
  struct Bos {
    std::string text;
    bool added = false;
  };
  // The prompt to tokenize. In the tokens there is one BOS where the template prints it or the vocabulary adds
  // it or both, and none otherwise, as in llama-server.
  std::string render(std::vector<ChatMessage> messages, ChatEnd end, bool thinking, const Bos& bos) const;

 private:
  const ChatFamily* family_;
  std::string text_, warning_, default_system_;
  bool prints_bos_ = false;
};

}  // namespace engine
