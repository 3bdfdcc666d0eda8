#include "src/engine/chat_reasoning.h"

#include <algorithm>

namespace engine {
namespace {

constexpr std::string_view kStartTag = "<think>", kEndTag = "</think>";
constexpr std::string_view kBlanks = " \t\r\n";

// Bytes at the end of the text, blanks before them included, that may be the beginning of the end tag.
size_t undecided_tail(std::string_view text) {
  size_t tag = std::min(text.size(), kEndTag.size() - 1);
  while (tag > 0 && !kEndTag.starts_with(text.substr(text.size() - tag))) {
    --tag;
  }
  return text.size() - (text.substr(0, text.size() - tag).find_last_not_of(kBlanks) + 1);
}

}  // namespace

// One move; false: more text is needed.
bool ReasoningSplitter::step(Parts& out) {
  const size_t first = held_.find_first_not_of(kBlanks);
  switch (state_) {
    case State::kStart: {
      if (first == std::string::npos) {
        return false;
      }
      std::string_view rest = std::string_view(held_).substr(first);
      if (rest.starts_with(kStartTag)) {
        held_.erase(0, first + kStartTag.size());
        state_ = State::kLead;
        return true;
      }
      if (kStartTag.starts_with(rest)) {
        return false;
      }
      state_ = State::kContent;
      return true;
    }
    case State::kLead:
    case State::kAfter:
      held_.erase(0, first);
      if (held_.empty()) {
        return false;
      }
      state_ = state_ == State::kLead ? State::kReasoning : State::kContent;
      return true;
    case State::kReasoning: {
      if (size_t end = held_.find(kEndTag); end != std::string::npos) {
        out.reasoning +=
            held_.substr(0, std::string_view(held_).substr(0, end).find_last_not_of(kBlanks) + 1);
        held_.erase(0, end + kEndTag.size());
        state_ = State::kAfter;
        return true;
      }
      size_t sure = held_.size() - undecided_tail(held_);
      out.reasoning += held_.substr(0, sure);
      held_.erase(0, sure);
      return false;
    }
    case State::kContent:
      out.content += held_;
      held_.clear();
      return false;
  }
  return false;
}

ReasoningSplitter::Parts ReasoningSplitter::push(std::string_view text) {
  Parts out;
  held_ += text;
  while (step(out)) {
  }
  return out;
}

ReasoningSplitter::Parts ReasoningSplitter::flush() {
  Parts out;
  const size_t first = std::min(held_.find_first_not_of(kBlanks), held_.size());
  // What kReasoning holds is blanks and the beginning of an end tag. At the start a lone '<' may well be an answer.
  const bool half_start = held_.size() - first > 1;
  if (state_ == State::kContent || (state_ == State::kStart && !half_start)) {
    out.content = held_;
  }
  held_.clear();
  return out;
}

}  // namespace engine
