#pragma once
// Generated pieces to text a client may see: a character whose bytes are not all here and what may become a
// stop string are held back; a stop string and what follows it never appear; what is to be said whole appears whole or
// not at all. Pure.

#include <string>
#include <string_view>
#include <vector>

namespace engine {

class TextOutput {
 public:
  // Empty stop strings are ignored.
  explicit TextOutput(std::vector<std::string> stops);

  struct Step {
    std::string text;            // new text to send, perhaps empty
    bool mid_character = false;  // the piece ended inside a character: send no event for it
    bool stopped = false;        // a stop string is complete; text holds what came before it
  };
  // more: the piece is part of something that is to be said whole, and more of it follows in the next one.
  Step push(std::string_view piece, bool more = false);
  // What was held back, when generation ends for another reason; what was to be said whole and is not is gone.
  std::string flush();

  const std::string& text() const { return text_; }  // everything, the stop string excluded
  const std::string& stopping_word() const { return stopping_word_; }

 private:
  std::vector<std::string> stops_;
  size_t longest_stop_ = 0;
  std::string text_, stopping_word_;
  size_t sent_ = 0;
  size_t whole_from_ = std::string::npos;  // where what is to be said whole begins, while it is not
};

}  // namespace engine
