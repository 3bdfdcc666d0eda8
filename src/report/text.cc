#include "src/report/text.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace report {
namespace {

// Length of the escape sequence at `at`, 0 when there is none.
size_t escape_length(std::string_view text, size_t at) {
  if (text[at] != '\x1b' || at + 1 >= text.size() || text[at + 1] != '[') {
    return 0;
  }
  size_t end = text.find('m', at);
  return end == std::string_view::npos ? text.size() - at : end - at + 1;
}

bool starts_code_point(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
}

}  // namespace

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (size_t at = 0; at < text.size();) {
    if (size_t skip = escape_length(text, at); skip > 0) {
      at += skip;
      continue;
    }
    width += starts_code_point(text[at]) ? 1 : 0;
    ++at;
  }
  return width;
}

std::string fit(std::string_view text, size_t width) {
  if (display_width(text) <= width) {
    return std::string(text);
  }
  if (width == 0) {
    return "";
  }
  size_t points = 0, at = 0;
  for (; at < text.size(); ++at) {
    if (starts_code_point(text[at]) && points++ == width - 1) {
      break;
    }
  }
  return std::string(text.substr(0, at)) + "…";
}

std::string pad_right(std::string_view text, size_t width) {
  size_t used = display_width(text);
  return std::string(text) + std::string(width > used ? width - used : 0, ' ');
}

std::string pad_left(std::string_view text, size_t width) {
  size_t used = display_width(text);
  return std::string(width > used ? width - used : 0, ' ') + std::string(text);
}

std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  std::string line;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(' ', at), text.size());
    std::string_view word = text.substr(at, end - at);
    at = end + 1;
    if (word.empty()) {
      continue;
    }
    if (!line.empty() && display_width(line) + 1 + display_width(word) > width) {
      lines.push_back(std::move(line));
      line.clear();
    }
    line += line.empty() ? "" : " ";
    line += word;
  }
  if (!line.empty()) {
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string bar(double share, size_t width) {
  constexpr std::array<const char*, 8> kPart = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  if (!(share > 0) || width == 0) {
    return "";
  }
  auto eighths = static_cast<size_t>(std::lround(std::min(share, 1.0) * 8 * static_cast<double>(width)));
  std::string out;
  for (size_t i = 0; i < eighths / 8; ++i) {
    out += "█";
  }
  return out + kPart[eighths % 8];
}

std::string printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto value = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    const bool c1 = value == 0xC2 && next >= 0x80 && next < 0xA0;  // in UTF-8
    out += c1 || value < 0x20 || value == 0x7f ? ' ' : text[i];
    i += c1 ? 1 : 0;
  }
  return out;
}

std::string Paint::operator()(Ink ink, std::string_view text) const {
  constexpr std::array<const char*, 7> kCodes = {"", "1", "2", "32", "31", "33", "36"};
  if (!colour_ || ink == Ink::kPlain || text.empty()) {
    return std::string(text);
  }
  return std::string("\x1b[") + kCodes[static_cast<size_t>(ink)] + "m" + std::string(text) + "\x1b[0m";
}

}  // namespace report
