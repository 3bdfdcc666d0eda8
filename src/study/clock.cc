#include "src/study/clock.h"

#include <cctype>

namespace study {
namespace {

// Two digits at `at`.
int two_digits(std::string_view text, size_t at) {
  return (text[at] - '0') * 10 + (text[at + 1] - '0');
}

}  // namespace

std::optional<double> seconds_until(std::string_view hh_mm, std::time_t now) {
  bool written = hh_mm.size() == 5 && hh_mm[2] == ':';
  for (size_t at : {0, 1, 3, 4}) {
    written = written && std::isdigit(static_cast<unsigned char>(hh_mm[at])) != 0;
  }
  if (!written || two_digits(hh_mm, 0) > 23 || two_digits(hh_mm, 3) > 59) {
    return std::nullopt;
  }
  std::tm local = {};
  localtime_r(&now, &local);
  // Some days have a time twice, or not at all: mktime chooses, and the third day is after `now` in any case.
  for (int day = local.tm_mday, last = day + 2; day <= last; ++day) {
    std::tm at = local;
    at.tm_mday = day;
    at.tm_hour = two_digits(hh_mm, 0);
    at.tm_min = two_digits(hh_mm, 3);
    at.tm_sec = 0;
    at.tm_isdst = -1;
    std::time_t then = std::mktime(&at);
    if (then > now) {
      return std::difftime(then, now);
    }
  }
  return std::nullopt;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace study
