#pragma once
// What goes wrong in a benchmark ends it by way of main(), so that its servers end and its models, a gigabyte each, are
// removed.

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "src/base/error.h"

namespace bench {

[[noreturn]] inline void fail(const std::string& why) {
  throw std::runtime_error(why);
}

template <class T>
T must(base::Result<T> result) {
  if (!result) {
    fail(result.failure().to_string());
  }
  if constexpr (!std::is_void_v<T>) {
    return *std::move(result);
  }
}

}  // namespace bench
