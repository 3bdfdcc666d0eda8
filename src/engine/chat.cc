#include "src/engine/chat.h"

namespace engine {
namespace {

std::string render_chatml(const std::vector<ChatMessage>& messages, bool open_end) {
  std::string out;
  for (size_t i = 0; i < messages.size(); ++i) {
    out += "<|im_start|>" + messages[i].role + "\n" + messages[i].content;
    if (!open_end || i + 1 < messages.size()) {
      out += "<|im_end|>\n";
    }
  }
  if (!open_end) {
    out += "<|im_start|>assistant\n";
  }
  return out;
}

constexpr ChatFamily kFamilies[] = {
    {"chatml", "<|im_start|>", render_chatml},
};

}  // namespace

const ChatFamily& chat_family(std::string_view template_text, bool* known) {
  *known = true;
  for (const ChatFamily& family : kFamilies) {
    if (template_text.find(family.marker) != std::string_view::npos) {
      return family;
    }
  }
  *known = template_text.empty();
  return kFamilies[0];
}

}  // namespace engine
