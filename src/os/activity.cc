#include "src/os/activity.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <string>

#include "src/os/proc.h"

namespace os {
namespace {

std::string slurp(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return "";
  }
  char buffer[4096];
  ssize_t n = ::read(fd, buffer, sizeof buffer);
  ::close(fd);
  return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
}

std::optional<uint64_t> leading_number(std::string_view text) {
  uint64_t value = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end != text.data() ? std::optional(value) : std::nullopt;
}

}  // namespace

std::optional<uint64_t> parse_cpu_ticks(std::string_view stat) {
  size_t at = stat.rfind(')');  // the command name before it may hold anything
  if (at == std::string_view::npos) {
    return std::nullopt;
  }
  // ") S ppid ...": utime and stime are the 12th and 13th words after the name.
  for (int word = 0; word < 12; ++word) {
    at = stat.find(' ', at + 1);
    if (at == std::string_view::npos) {
      return std::nullopt;
    }
  }
  auto user = leading_number(stat.substr(at + 1));
  size_t next = stat.find(' ', at + 1);
  auto system = next == std::string_view::npos ? std::nullopt : leading_number(stat.substr(next + 1));
  return user && system ? std::optional(*user + *system) : std::nullopt;
}

std::optional<uint64_t> parse_read_bytes(std::string_view io) {
  constexpr std::string_view kKey = "\nread_bytes: ";
  size_t at = io.find(kKey);
  return at == std::string_view::npos ? std::nullopt : leading_number(io.substr(at + kKey.size()));
}

Activity read_activity(pid_t root) {
  static const auto ticks_per_s = static_cast<double>(::sysconf(_SC_CLK_TCK));
  Activity sum;
  std::vector<pid_t> pids = descendants(root);
  pids.push_back(root);
  for (pid_t pid : pids) {
    std::string directory = fmt::format("/proc/{}/", pid);
    sum.cpu_s += static_cast<double>(parse_cpu_ticks(slurp(directory + "stat")).value_or(0)) / ticks_per_s;
    sum.read_bytes += parse_read_bytes(slurp(directory + "io")).value_or(0);
    if (auto memory = read_process_memory(pid)) {
      sum.rss_bytes += memory->rss;
    }
  }
  return sum;
}

}  // namespace os
