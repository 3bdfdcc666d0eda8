#pragma once
// Log lines on stderr: "hh:mm:ss.mmm L text". One global level, set once in main. No secrets: callers never
// pass keys.

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace base {

enum class LogLevel { kError = 1, kWarn = 2, kInfo = 3, kDebug = 4 };  // llama-server's --verbosity numbers

void set_log_level(LogLevel level);
LogLevel log_level();
void log_line(LogLevel level, std::string_view text);

template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (level <= log_level()) {
    log_line(level, fmt::format(format, std::forward<Args>(args)...));
  }
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log(LogLevel::kError, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log(LogLevel::kWarn, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log(LogLevel::kInfo, format, std::forward<Args>(args)...);
}

}  // namespace base
