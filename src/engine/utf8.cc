#include "src/engine/utf8.h"

#include <algorithm>

namespace engine {
namespace {

bool is_continuation(unsigned char c) {
  return (c & 0xC0) == 0x80;
}

}  // namespace

size_t utf8_length(unsigned char first) {
  return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
}

size_t incomplete_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    auto c = static_cast<unsigned char>(text[text.size() - back]);
    if (!is_continuation(c)) {
      return c >= 0xC2 && c <= 0xF4 && utf8_length(c) > back ? back : 0;
    }
  }
  return 0;
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    auto c = static_cast<unsigned char>(text[i]);
    size_t n = utf8_length(c);
    if ((c >= 0x80 && c < 0xC2) || c > 0xF4 || n > text.size() - i) {
      return i;
    }
    for (size_t k = 1; k < n; ++k) {
      if (!is_continuation(static_cast<unsigned char>(text[i + k]))) {
        return i;
      }
    }
    if (n > 2) {  // overlong forms, surrogates, beyond U+10FFFF
      auto second = static_cast<unsigned char>(text[i + 1]);
      if ((c == 0xE0 && second < 0xA0) || (c == 0xED && second > 0x9F) || (c == 0xF0 && second < 0x90) ||
          (c == 0xF4 && second > 0x8F)) {
        return i;
      }
    }
    i += n;
  }
  return i;
}

bool is_valid_utf8(std::string_view text) {
  return valid_utf8_prefix(text) == text.size();
}

}  // namespace engine
