#pragma once
// AR_CHECK(condition, "what is broken"): our own bugs only, in every build. Never for input (that is an
// Error). The prefix keeps it apart from the test framework's CHECK.

namespace base {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const char* what);

}  // namespace base

#define AR_CHECK(condition, what)                                   \
  do {                                                              \
    if (!(condition)) [[unlikely]] {                                \
      ::base::check_failed(__FILE__, __LINE__, #condition, (what)); \
    }                                                               \
  } while (false)
