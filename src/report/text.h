#pragma once
// Aligned terminal text: display widths of UTF-8, colours that do not count as width, cells, wrapping, bars.

#include <string>
#include <string_view>
#include <vector>

namespace report {

// Code points, escape sequences not counted (every character used here is one column wide).
size_t display_width(std::string_view text);
// Cut to `width` columns, ending in "…" when something was cut.
std::string fit(std::string_view text, size_t width);
std::string pad_right(std::string_view text, size_t width);  // left-aligned
std::string pad_left(std::string_view text, size_t width);   // right-aligned
// Words broken into lines of at most `width` columns; a longer word gets a line of its own.
std::vector<std::string> wrap(std::string_view text, size_t width);
// share in [0, 1] of `width` columns, in eighths.
std::string bar(double share, size_t width);

// Control characters of foreign text (logs, answers) must not reach a terminal.
std::string printable(std::string_view text);

enum class Ink { kPlain, kBold, kDim, kGreen, kRed, kYellow, kCyan };
class Paint {
 public:
  explicit Paint(bool colour) : colour_(colour) {}
  std::string operator()(Ink ink, std::string_view text) const;

 private:
  bool colour_;
};

}  // namespace report
