#include "src/study/load_watch.h"

#include <algorithm>
#include <cmath>

namespace study {
namespace {

// A load computes or reads at full speed; answering ten polls a second takes well under 1% of a core.
constexpr double kBusyShare = 0.02, kLeastCpu_s = 0.05;
constexpr uint64_t kLeastRead = 256 << 10, kLeastRssChange = 1 << 20;

}  // namespace

double LoadWatch::idle_s(double now_s, const LoadSigns& signs) {
  double cpu = signs.cpu_s - mark_.cpu_s;
  uint64_t rss_change =
      std::max(signs.rss_bytes, mark_.rss_bytes) - std::min(signs.rss_bytes, mark_.rss_bytes);
  bool progress = first_ || signs.log_bytes != mark_.log_bytes || signs.answer != mark_.answer ||
                  signs.read_bytes >= mark_.read_bytes + kLeastRead || rss_change >= kLeastRssChange ||
                  cpu >= std::max(kLeastCpu_s, kBusyShare * (now_s - at_s_)) ||
                  cpu < 0;  // a process of the tree has ended
  if (progress) {
    first_ = false;
    at_s_ = now_s;
    mark_ = signs;
  }
  return now_s - at_s_;
}

uint64_t telling_bytes(std::string_view text, std::string_view ready_path) {
  uint64_t bytes = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    bytes += line.find(ready_path) == std::string_view::npos ? line.size() : 0;
    at = end + 1;
  }
  return bytes;
}

}  // namespace study
