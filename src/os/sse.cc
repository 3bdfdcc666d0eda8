#include "src/os/http_client.h"

namespace os {
namespace {

constexpr size_t kMaxEventBytes = 16u << 20;

}  // namespace

bool SseParser::feed(std::string_view bytes, const std::function<void(std::string_view)>& on_event) {
  while (!bytes.empty()) {
    size_t end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (line_.size() + data_.size() > kMaxEventBytes) {
      return false;
    }
    if (end == std::string_view::npos) {
      return true;
    }
    bytes.remove_prefix(end + 1);
    std::string_view line = line_;
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    if (line.empty()) {
      if (!data_.empty()) {
        data_.pop_back();  // the newline after the last data line
        std::string event = std::move(data_);
        data_.clear();
        line_.clear();
        on_event(event);
        continue;
      }
    } else if (line.starts_with(
                   "data:")) {  // other fields (event, id, retry) and ":" comments mean nothing here
      line.remove_prefix(5);
      if (line.starts_with(' ')) {
        line.remove_prefix(1);
      }
      data_.append(line).push_back('\n');
    }
    line_.clear();
  }
  return true;
}

}  // namespace os
