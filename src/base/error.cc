#include "src/base/error.h"

#include <system_error>

namespace base {

std::string Error::to_string() const {
  std::string text;
  if (!where.empty()) {
    text += where + ": ";
  }
  text += what;
  if (!next.empty()) {
    text += "; " + next;
  }
  return text;
}

Error error(std::string where, std::string what, std::string next) {
  return Error{std::move(where), std::move(what), std::move(next)};
}

Error sys_error(std::string where, std::string what, int errno_value, std::string next) {
  return Error{std::move(where), std::move(what) + ": " + std::generic_category().message(errno_value),
               std::move(next)};
}

}  // namespace base
