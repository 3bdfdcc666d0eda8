#include "src/engine/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/suggest.h"

namespace engine {
namespace {

// llama.cpp's names of its built-in templates, where ours differ.
struct Alias {
  std::string_view theirs, ours;
};
constexpr Alias kAliases[] = {
    {"llama3", "llama-3"},
    {"deepseek2", "deepseek-v2"},
    {"deepseek3", "deepseek-v3"},
    {"mistral-v3-tekken", "mistral-nemo"},
};

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Why prompts may differ from the template's own; "" where nothing speaks for it.
std::string doubt_about(std::string_view text, const ChatFamily& family) {
  for (std::string_view marker : family.unlike) {
    if (!marker.empty() && has(text, marker)) {
      return fmt::format("it also has '{}' in it, which the known templates of that family have not", marker);
    }
  }
  if (!has(text, family.expects)) {
    return fmt::format("it has no '{}' in it, which the known templates of that family have", family.expects);
  }
  if (has(text, "strftime_now")) {
    return "it gives today's date, and here prompts are the same every day";
  }
  return "";
}

// What may stand in a name's place, llama.cpp's spellings included.
std::string what_is_taken(std::string_view name) {
  std::vector<std::string> names;
  for (const ChatFamily& family : chat_families()) {
    names.emplace_back(family.name);
  }
  for (const Alias& alias : kAliases) {
    names.emplace_back(alias.theirs);
  }
  const std::string meant = name.empty() ? "" : base::closest(name, names);
  return fmt::format("{}name one of {}, or give the text of such a template",
                     meant.empty() ? "" : fmt::format("did you mean {}? ", meant), fmt::join(names, ", "));
}

}  // namespace

ChatTemplate::ChatTemplate() : family_(find_chat_family("chatml")) {
  AR_CHECK(family_ != nullptr, "ChatML is a row of the table");
}

ChatTemplate ChatTemplate::from_text(std::string text) {
  ChatTemplate out;
  if (text.empty()) {
    return out;
  }
  if (const ChatFamily* family = recognise_chat_family(text)) {
    out.family_ = family;
    if (const std::string doubt = doubt_about(text, *family); !doubt.empty()) {
      out.warning_ = fmt::format(
          "the chat template is rendered as {}; exactness is not assured: {}; compare POST /apply-template "
          "with "
          "what the model expects",
          family->name, doubt);
    }
    if (const size_t at = text.find(family->default_system);
        !family->default_system.empty() && at != std::string::npos) {
      const size_t begin = at + family->default_system.size();
      const size_t end = text.find('"', begin);
      out.default_system_ = end == std::string::npos ? "" : text.substr(begin, end - begin);
    }
  } else {
    out.warning_ = fmt::format(
        "the chat template is not known to this server; prompts are rendered as {}, which the model may not "
        "understand; name a family with --chat-template, or send finished prompts to /completion",
        out.family_->name);
  }
  out.prints_bos_ = has(text, "bos_token");
  out.text_ = std::move(text);
  return out;
}

base::Result<ChatTemplate> ChatTemplate::from_option(std::string_view value) {
  const auto* alias = std::ranges::find(kAliases, value, &Alias::theirs);
  const std::string_view name = alias == std::end(kAliases) ? value : alias->ours;
  if (const ChatFamily* family = find_chat_family(name)) {
    ChatTemplate out;
    out.family_ = family;
    out.text_ = value;
    return out;
  }
  if (!has(value, "{")) {
    return base::error("", fmt::format("'{}' is neither a template nor the name of one", value),
                       what_is_taken(value));
  }
  if (!recognise_chat_family(value)) {
    return base::error("", "this template is of no family that this server knows, and it runs no Jinja",
                       what_is_taken(""));
  }
  return from_text(std::string(value));
}

std::string ChatTemplate::note() const {
  return !family_->always_thinks
             ? ""
             : fmt::format(
                   "the chat template ({}) has no switch for thinking; where a request switches it off, or "
                   "continues an answer, this server ends the thinking in the prompt with </think> itself",
                   family_->name);
}

std::string ChatTemplate::render(std::vector<ChatMessage> messages, ChatEnd end, bool thinking,
                                 const Bos& bos) const {
  if (!default_system_.empty()) {
    const bool given = !messages.empty() && messages[0].role == "system";
    if (!given) {
      messages.insert(messages.begin(), ChatMessage{"system", default_system_});
    } else if (messages[0].content.empty()) {
      messages[0].content = default_system_;
    }
  }
  std::string out = family_->render(messages, end, thinking);
  if (bos.text.empty()) {
    return out;
  }
  // A family may spell its BOS out itself.
  const bool there = out.starts_with(bos.text);
  if (bos.added && there) {
    return out.substr(bos.text.size());
  }
  return !bos.added && prints_bos_ && !there ? bos.text + out : out;
}

}  // namespace engine
