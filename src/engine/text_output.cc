#include "src/engine/text_output.h"

#include <algorithm>

#include "src/engine/utf8.h"

namespace engine {

TextOutput::TextOutput(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  for (const std::string& stop : stops_) {
    longest_stop_ = std::max(longest_stop_, stop.size());
  }
}

TextOutput::Step TextOutput::push(std::string_view piece, bool more) {
  size_t before = text_.size();
  whole_from_ = more ? std::min(whole_from_, before) : std::string::npos;
  text_ += piece;
  Step step;
  // A stop string may have begun in earlier pieces, but only in text that has not been sent.
  size_t from = before > longest_stop_ ? std::max(sent_, before - longest_stop_) : sent_;
  size_t found = std::string::npos;
  for (const std::string& stop : stops_) {
    size_t at = text_.find(stop, from);
    if (at < found) {
      found = at;
      stopping_word_ = stop;
    }
  }
  if (found != std::string::npos) {
    text_.erase(std::min(found, whole_from_));
    step.stopped = true;
    step.text = text_.substr(sent_);
    sent_ = text_.size();
    return step;
  }
  size_t tail = incomplete_utf8_tail(text_);
  step.mid_character = tail > 0;
  size_t end = text_.size() - tail;
  // The earliest place from which the end of the text could grow into a stop string.
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, text_.size() - sent_); n > 0; --n) {
      if (text_.compare(text_.size() - n, n, stop, 0, n) == 0) {
        end = std::min(end, text_.size() - n);
        break;
      }
    }
  }
  end = std::max(std::min(end, whole_from_), sent_);
  step.text = text_.substr(sent_, end - sent_);
  sent_ = end;
  return step;
}

std::string TextOutput::flush() {
  text_.resize(std::min(text_.size(), whole_from_));
  std::string rest = text_.substr(sent_);
  sent_ = text_.size();
  return rest;
}

}  // namespace engine
