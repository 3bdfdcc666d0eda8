#include "src/base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace base {

Result<double> parse_duration_s(std::string_view text) {
  const Error bad = error("", fmt::format("'{}' is not a duration", text),
                          "write a number with ms, s, m or h, such as 90s or 1h30m");
  double total = 0;
  std::string_view rest = text;
  if (rest.empty()) {
    return bad;
  }
  while (!rest.empty()) {
    double number = 0;
    auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    if (problem != std::errc() || !(number >= 0) || !std::isfinite(number)) {
      return bad;
    }
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    size_t unit_length = rest.find_first_of("0123456789.");
    std::string_view unit = rest.substr(0, unit_length);
    rest.remove_prefix(unit.size());
    if (unit == "ms") {
      total += number / 1000;
    } else if (unit == "s" || (unit.empty() && total == 0)) {
      total += number;
    } else if (unit == "m" || unit == "min") {
      total += number * 60;
    } else if (unit == "h") {
      total += number * 3600;
    } else {
      return bad;
    }
  }
  return total;
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0)) {
    return "-";
  }
  if (seconds < 1) {
    return fmt::format("{:.0f} ms", seconds * 1000);
  }
  if (seconds < 99.95) {
    return fmt::format("{:.1f} s", seconds);
  }
  auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) {
    return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  }
  return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) {
    return fmt::format("{} B", bytes);
  }
  auto size = static_cast<double>(bytes);
  size_t unit = 0;
  while (size >= 1024 && unit + 1 < kNames.size()) {
    size /= 1024;
    ++unit;
  }
  return fmt::format("{:.2f} {}", size, kNames[unit]);
}

std::string format_count(uint64_t count) {
  constexpr std::array<const char*, 4> kNames = {"", " K", " M", " B"};
  auto size = static_cast<double>(count);
  size_t unit = 0;
  while (size >= 999.5 &&
         unit + 1 < kNames.size()) {  // what would be printed as a thousand is one of the next
    size /= 1000;
    ++unit;
  }
  const int decimals = unit == 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", size, decimals, kNames[unit]);
}

}  // namespace base
