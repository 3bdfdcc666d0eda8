#include "src/os/guard_protocol.h"

#include <cstring>

namespace os::guard {
namespace {

template <class T>
void put(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& out, const std::string& text) {
  put(out, static_cast<uint64_t>(text.size()));
  out += text;
}
void put_list(std::string& out, const std::vector<std::string>& list) {
  put(out, static_cast<uint64_t>(list.size()));
  for (const std::string& text : list) {
    put_text(out, text);
  }
}

template <class T>
bool take(std::string_view& in, T& value) {
  if (in.size() < sizeof value) {
    return false;
  }
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return true;
}
bool take_text(std::string_view& in, std::string& text) {
  uint64_t size = 0;
  if (!take(in, size) || in.size() < size) {
    return false;
  }
  text = in.substr(0, size);
  in.remove_prefix(size);
  return true;
}
bool take_list(std::string_view& in, std::vector<std::string>& list) {
  uint64_t size = 0;
  if (!take(in, size) || size > in.size()) {
    return false;
  }
  list.resize(size);
  for (std::string& text : list) {
    if (!take_text(in, text)) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string encode(const Spec& spec) {
  std::string out;
  put_text(out, spec.program);
  put_list(out, spec.argv);
  put_list(out, spec.set_env);
  put_list(out, spec.unset_env);
  put_text(out, spec.log_path);
  put(out, spec.max_log_bytes);
  put(out, spec.min_headroom_bytes);
  put(out, spec.sample_hz);
  put(out, spec.oom_score_adj);
  put(out, spec.own_stdin);
  put(out, spec.own_stdout);
  return out;
}

bool decode(std::string_view bytes, Spec& spec) {
  return take_text(bytes, spec.program) && take_list(bytes, spec.argv) && take_list(bytes, spec.set_env) &&
         take_list(bytes, spec.unset_env) && take_text(bytes, spec.log_path) &&
         take(bytes, spec.max_log_bytes) && take(bytes, spec.min_headroom_bytes) &&
         take(bytes, spec.sample_hz) && take(bytes, spec.oom_score_adj) && take(bytes, spec.own_stdin) &&
         take(bytes, spec.own_stdout) && bytes.empty();
}

}  // namespace os::guard
